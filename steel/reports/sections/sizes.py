"""Small and large defects, and areas predicted against true."""

from steel.labels.classes import ANY
from steel.reports.html.charts import Axis, Series, line_chart, octave_text, octave_ticks
from steel.reports.html.figures import Figures
from steel.reports.html.markup import Markup, join, table, tag
from steel.reports.sections.common import PERCENT, SCORE, class_name, tinted_table


def sizes_section(page: Figures) -> Markup:
    """What is found by size of the defect, and counts and areas predicted against true."""
    show = page.show
    bins = page.metrics["sizes"]
    lines = [
        [
            join([show("sizes", ANY, i, "min_area"), " to ", show("sizes", ANY, i, "end_area")]),
            show("sizes", ANY, i, "defects"),
            show("sizes", ANY, i, "found"),
            show("sizes", ANY, i, "found_share", form=PERCENT),
            show("sizes", ANY, i, "dice", form=SCORE),
            show("sizes", ANY, i, "pixel_recall", form=PERCENT),
        ]
        for i in range(len(bins[ANY]))
    ]
    header = ["pixels, fewer than", "defects", "found", "share found", "mean Dice", "pixels found"]
    counts = [
        [
            class_name(name, k),
            show("true_images_per_class", name),
            show("predicted_images_per_class", name),
            show("areas", "per_class", name, "true"),
            show("areas", "per_class", name, "predicted"),
            show("areas", "per_class", name, "hit"),
        ]
        for k, name in enumerate(page.names)
    ]
    return join(
        [
            tag(
                "p",
                "A defect is all that one image has of one class; its size is its pixels there. A point of few "
                "defects, whose number the table has, is chance.",
                class_="note",
            ),
            _charts(page),
            table(header, lines, caption="All classes by size")
            if lines
            else tag("p", "No image has a defect.", class_="note"),
            table(
                ["", "images true", "images predicted", "pixels true", "pixels predicted", "right"],
                counts,
                caption="Count and area, true and predicted",
            ),
            _area_table(page),
        ]
    )


def _charts(page: Figures) -> Markup:
    """Shares and scores over octaves of size; nothing where no image has a defect."""
    bins = page.metrics["sizes"]
    octaves = sorted({one["min_area"].bit_length() - 1 for one in bins[ANY]})
    if not octaves:
        return join([])
    x = Axis("pixels of the class in the image", octave_ticks(octaves), octaves[0], max(octaves[-1], octaves[0] + 1))

    def chart(title: str, key: str, label: str) -> Markup:
        series = [
            Series(
                "all classes" if name == ANY else name,
                [(one["min_area"].bit_length() - 1, one[key]) for one in bins[name]],
                None if name == ANY else page.names.index(name),
                dots=True,
            )
            for name in page.all_names
        ]
        return line_chart(title, x, Axis(label), series)

    return tag(
        "div",
        chart("Found at all, by size", "found_share", "share found"),
        chart("Dice, by size", "dice", "mean Dice"),
        chart("Pixels found, by size", "pixel_recall", "pixel recall"),
        class_="charts",
    )


def _area_table(page: Figures) -> Markup:
    octaves, pairs = page.metrics["areas"]["octaves"], page.metrics["areas"]["pairs"]
    names = [tag("span", "none" if octave < 0 else f"{octave_text(octave)}+", class_="tick") for octave in octaves]
    most = max(map(max, pairs)) or 1
    shares = [[number / most for number in row] for row in pairs]
    caption = "Defects by true area (rows) and predicted area (columns), in pixels"
    content = tinted_table(page, ("areas", "pairs"), names, ["true", *names], shares, caption)
    return tag("details", tag("summary", "Area predicted against true, as a table"), content)

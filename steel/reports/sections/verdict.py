"""Is it any good: the first thing that the report says."""

from steel.labels.classes import ANY
from steel.reports.html.figures import Figures
from steel.reports.html.markup import Markup, join, table, tag
from steel.reports.sections.common import PERCENT, SCORE, class_name, tile

_MARKS = {
    "works": ("good", "✓"),
    "absent": ("", "–"),
    "never answered": ("bad", "✗"),
    "harmful": ("bad", "✗"),
    "not shown": ("warn", "?"),
}
"""Tone and mark of each state in `standing_per_class`."""


def verdict_section(page: Figures) -> Markup:
    """The verdict in words, the figures that matter most, and each class's standing."""
    verdict = page.metrics["verdict"]
    tone = "bad" if verdict["gain"] <= 0 else ("warn" if verdict["warning"] else "good")
    tiles = [
        tile("defective strips found", *_share(page, "found", "defective")),
        tile("clean strips stopped", *_share(page, "stopped", "clean")),
        tile(
            "mean Dice",
            page.show("mean_dice", form=SCORE),
            join(["answering nothing gets ", page.show("mean_dice_all_empty", form=SCORE)]),
        ),
        tile(
            "positive Dice: of what is there",
            page.show("mean_dice_positive", form=SCORE),
            join(["95 %: ", page.span("intervals", "mean_dice_positive", form=SCORE)]),
        ),
    ]
    lines = [
        [
            class_name(name, k),
            _standing(page, name),
            _counted(page, name, "found", "defective"),
            page.show("verdict", "gain_per_class", name, form="+.4f"),
            page.span("verdict", "gain_interval_per_class", name, form="+.4f"),
        ]
        for k, name in enumerate(page.names)
    ]
    header = ["class", "verdict", "found, of the images that have it", "Dice over never answering it", "95 %"]
    return join(
        [
            tag("p", page.show("verdict", "sentence"), class_=f"verdict {tone}"),
            tag("div", *tiles, class_="tiles"),
            table(header, lines, caption="Each class against never answering it", class_="worded"),
        ]
    )


def _share(page: Figures, part: str, whole: str) -> tuple[Markup, Markup]:
    """`part of whole` strips, and the share with its interval."""
    at = ("strips", ANY)
    share = page.show(*at, f"{part}_share", form=PERCENT)
    span = page.span(*at, f"{part}_interval", form=PERCENT)
    return _counted(page, ANY, part, whole), join([share, " (95 %: ", span, ")"])


def _counted(page: Figures, name: str, part: str, whole: str) -> Markup:
    return join([page.show("strips", name, part), " of ", page.show("strips", name, whole)])


def _standing(page: Figures, name: str) -> Markup:
    standing = page.metrics["standing_per_class"][name]
    tone, mark = _MARKS[standing["state"]]
    few = tag("span", " (rests on few images)", class_="warn") if standing["few"] else ""
    words = page.show("standing_per_class", name, "words")
    return join([tag("span", mark, class_=f"mark {tone}", aria_hidden="true"), " ", words, few])

"""An ensemble's members beside each other."""

from typing import Any

from steel.reports.html.charts import interval_chart
from steel.reports.html.figures import Figures
from steel.reports.html.markup import Markup, join, table, tag
from steel.reports.sections.common import SCORE, class_name

_ROLES = {
    "train": "trained on these images",
    "tuning": "tuned on them",
    "test": "held out",
    "unknown": "of other shards than its own: perhaps seen",
}


def members_section(page: Figures) -> Markup:
    """Scores of the average and of each member, and what the one gains over the other."""
    ensemble = page.metrics["ensemble"]
    places: list[tuple[str, tuple[Any, ...]]] = [("ensemble", ())]
    places += [(member["name"], ("members", i)) for i, member in enumerate(ensemble["members"])]
    floor = page.metrics["mean_dice_all_empty"]
    found = [(name, page.value("ensemble", *at)) for name, at in places]
    chart = interval_chart(
        "Mean Dice of each, 95 % interval, and the floor (dotted)",
        [(name, one["mean_dice"], one["intervals"]["mean_dice"], floor, None) for name, one in found],
    )
    scores = ("mean_dice", "mean_dice_positive", "cross_entropy")
    lines = [[name, *(page.show("ensemble", *at, key, form=SCORE) for key in scores)] for name, at in places]
    gains = [
        [
            name,
            page.show("ensemble", *at, "gain", "mean_dice", "so"),
            page.show("ensemble", *at, "gain", "mean_dice", "difference", form="+.4f"),
            page.span("ensemble", *at, "gain", "mean_dice", "interval", form="+.4f"),
            page.show("ensemble", *at, "gain", "mean_dice_positive", "difference", form="+.4f"),
            page.span("ensemble", *at, "gain", "mean_dice_positive", "interval", form="+.4f"),
            _ROLES[page.value("ensemble", *at, "role")],
        ]
        for name, at in places[1:]
    ]
    classes = [
        [
            class_name(name, k),
            *(page.show("ensemble", *at, "dice_positive_per_class", name, form=SCORE) for _, at in places),
        ]
        for k, name in enumerate(page.names)
    ]
    header = ["against", "the ensemble is", "mean Dice", "95 %", "positive Dice", "95 %", "to the member they are"]
    best = max(ensemble["members"], key=lambda member: member["mean_dice"])
    tone = {"better": "good", "worse": "bad"}.get(best["gain"]["mean_dice"]["so"], "warn")
    return join(
        [
            tag("p", page.show("ensemble", "sentence"), class_=f"verdict {tone}"),
            tag("div", chart, class_="charts"),
            table(["", "mean Dice", "positive Dice", "cross entropy of pixels"], lines, caption="Scores"),
            table(header, gains, caption="What the average gains over each member, paired by image", class_="worded"),
            table(["positive Dice", *(name for name, _ in places)], classes, caption="Each class"),
            tag("p", _basis(page), class_="note"),
        ]
    )


def _basis(page: Figures) -> str:
    """By which decisions and flips they were judged."""
    ensemble = page.metrics["ensemble"]
    members = ensemble["members"]
    words = "Each is judged as it would be used alone, by its own decision. "
    if page.metrics["cross_fitted"] is not None:
        words = "The decision of each was found on these very images; what is compared is cross-fitted. "
    elif not all(member["has_decision"] for member in members):
        words = (
            "The file does not hold the decision of every member: such members are judged by the ensemble's, which was "
            "not found for them and flatters the ensemble. "
        )
    if any(member["tta"] != ensemble["tta"] for member in members):
        named = [("ensemble", ensemble), *((member["name"], member) for member in members)]
        flips = (f"{name} {', '.join(one['tta']) or 'none'}" for name, one in named)
        words += f"The flips averaged are not the same: {'; '.join(flips)}. "
    return words + "The cross entropy needs no decision; less is better."

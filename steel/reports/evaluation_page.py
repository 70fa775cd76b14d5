"""`report.html`: an evaluation as a page, from `metrics.json`, the lines of its tables and pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from steel.reports.evaluation import role_words
from steel.reports.html.document import Section, document
from steel.reports.html.figures import Figures
from steel.reports.html.markup import Markup, join
from steel.reports.per_image import ImageRow
from steel.reports.sections.curves import calibration_section, curves_section
from steel.reports.sections.folds import folds_section, is_crossval
from steel.reports.sections.gallery import gallery_section
from steel.reports.sections.members import members_section
from steel.reports.sections.origin import labels_section, origin_section
from steel.reports.sections.scores import confusion_section, scores_section
from steel.reports.sections.sizes import sizes_section
from steel.reports.sections.strips import operating_data, strips_section
from steel.reports.sections.thresholds import thresholds_section
from steel.reports.sections.verdict import verdict_section
from steel.reports.shots import Shot


def evaluation_page(
    metrics: Mapping[str, Any],
    rows: Sequence[ImageRow],
    doubts: Sequence[Mapping[str, Any]],
    shots: Sequence[Shot],
    kinds: Mapping[str, Sequence[int]],
) -> str:
    """The page as text.

    Args:
        metrics: all of `metrics.json`.
        rows: of `per_image.csv`, worst first.
        doubts: of `label_doubts.csv`.
        shots: pictures of some of the images.
        kinds: the gallery's kinds, each with its rows in order.
    """
    page = Figures(metrics)
    by_row = {line.row: line for line in rows}
    shown = {str(by_row[shot.row].values["image_id"]): shot.row for shot in shots}
    gallery = gallery_section(page.names, by_row, shots, kinds, doubts, by_fold=is_crossval(page))
    sections = [
        Section("verdict", "Verdict", verdict_section(page)),
        Section("strips", "Defective strips found, clean strips stopped", strips_section(page)),
        Section("scores", "Scores beside the floor", scores_section(page)),
        *([Section("folds", "Folds beside each other", folds_section(page))] if is_crossval(page) else []),
        *([Section("members", "Members beside each other", members_section(page))] if "ensemble" in metrics else []),
        Section("confusion", "What is taken for what", confusion_section(page)),
        Section("curves", "Curves over all thresholds", curves_section(page)),
        Section("thresholds", "Thresholds and gates", thresholds_section(page)),
        Section("calibration", "Can the probabilities be believed?", calibration_section(page)),
        Section("sizes", "Small and large defects", sizes_section(page)),
        Section("gallery", "Gallery", gallery),
        Section("labels", "Labels that may be wrong", labels_section(page, doubts, shown)),
        Section("origin", "Speed and origin", origin_section(page)),
    ]
    title = "Cross-validation of a defect model" if is_crossval(page) else "Evaluation of a defect model"
    return document(title, _subtitle(page), sections, {"operating": operating_data(page)})


def _subtitle(page: Figures) -> Markup:
    provenance = page.metrics.get("provenance", {})
    parts: list[object] = []
    if "checkpoint" in provenance:
        parts += [page.show("provenance", "checkpoint"), " on ", page.show("provenance", "data"), ": "]
    parts += [page.show("images"), " images, folds ", page.texts("folds")]
    parts += [f" ({role_words(page.metrics)}), flips averaged: ", page.texts("tta")]
    if is_crossval(page):
        whose = "of its fold" if page.metrics["role"] == "train" else "that has not seen it"
        parts.append(f"; each image judged by the member {whose}, with the decision of the other folds")
    elif provenance.get("members", 1) > 1:
        parts += ["; an ensemble: the probabilities of ", page.show("provenance", "members"), " members, averaged"]
    return join(parts)

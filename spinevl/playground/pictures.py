"""The parts of the page that are made here: images, boxes, option probabilities, conversations.

Everything is inline, so that no file is served, and every text is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from spinevl.inference.occlusion import OcclusionMap
from spinevl.playground.archive import Slot
from spinevl.schema.box import Box
from spinevl.schema.errors import as_lines
from spinevl.schema.prediction import Prediction
from spinevl.schema.task import Task

_SHOWN_PX = 512
_THUMBNAIL_PX = 128
# light to dark, distinct for the colour-blind; the share in per cent stands beside them
_COLOURS = ("#c6dbef", "#fdd0a2", "#fd8d3c", "#a63603", "#54278f", "#1b7837")

CSS = """
.spine-row { display: flex; flex-wrap: wrap; gap: 12px; }
.spine-row figure { margin: 0; flex: 1 1 200px; min-width: 120px; max-width: 340px; }
.spine-thumbs figure { flex: 0 0 96px; min-width: 0; }
.spine-thumbs figcaption { overflow-wrap: anywhere; overflow: hidden; display: -webkit-box;
  -webkit-line-clamp: 2; -webkit-box-orient: vertical; }
#level label { padding: 6px 9px; }
.spine-slice { position: relative; line-height: 0; background: #000; }
.spine-slice img { width: 100%; height: auto; image-rendering: auto; }
.spine-slice svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.spine-row figcaption { font-size: 13px; padding-top: 4px; }
.spine-strip { width: 100%; border-collapse: collapse; font-size: 14px; }
.spine-strip, .spine-strip tr, .spine-strip th, .spine-strip td { border: 0 !important; }
.spine-strip th, .spine-strip td { padding: 2px 8px 2px 4px !important; text-align: left;
  font-weight: 400; vertical-align: middle; }
.spine-strip th { white-space: nowrap; width: 4.5em; }
.spine-strip tr.chosen th { font-weight: 700; }
.spine-strip tr.chosen { outline: 2px solid #4c78a8; }
.spine-strip .said { width: 40%; font-variant-numeric: tabular-nums; }
.spine-bar { display: flex; height: 14px; min-width: 60px; overflow: hidden; border-radius: 3px; }
.spine-bar i { display: block; height: 100%; }
.spine-legend { font-size: 13px; display: flex; flex-wrap: wrap; gap: 2px 12px; margin: 2px 0 6px; }
.spine-legend i { display: inline-block; width: 10px; height: 10px; margin-right: 4px; }
.spine-task { margin: 10px 0 0; font-size: 15px; font-weight: 600; }
.spine-small { font-size: 13px; opacity: .85; }
.spine-turn { white-space: pre-wrap; overflow-wrap: anywhere; padding: 8px 12px; margin: 6px 0;
  border-radius: 8px; border: 1px solid rgba(128,128,128,.35); }
.spine-turn b { display: block; font-size: 12px; }
.spine-user { margin-left: 10%; background: rgba(76,120,168,.14); }
.spine-model { margin-right: 10%; }
.spine-thumbs img { max-height: 96px; max-width: 96px; display: block; }
.spine-problem { border-left: 4px solid #c0392b; padding: 6px 10px; overflow-wrap: anywhere; }
.spine-note { border-left: 4px solid #b8860b; padding: 6px 10px; }
@media (max-width: 500px) { .spine-strip .said { width: 45%; } .spine-user { margin-left: 4%; } }
"""

NOT_CLINICAL = (
    '<div class="spine-note" role="note"><strong>Not for clinical use.</strong> '
    "This page is for research: its answers are a model's guesses and no diagnosis.</div>"
)


def problem(lines: Iterable[str]) -> str:
    """What is wrong, for people who use a screen reader too."""
    shown = "<br>".join(escape(line) for line in as_lines(list(lines)))
    return f'<div class="spine-problem" role="alert">{shown}</div>' if shown else ""


def status(text: str) -> str:
    """What is going on."""
    return f'<div role="status">{escape(text)}</div>' if text else ""


def inline(path: Path) -> tuple[str, tuple[int, int]]:
    """An image that was checked before, as a data URI of at most 512 pixels, and its own size."""
    with Image.open(path) as image:
        size = image.size
        image.thumbnail((_SHOWN_PX, _SHOWN_PX))
        return _uri(image.convert("RGB")), size


def thumbnail(pixels: np.ndarray) -> str:
    """A small picture of an image uint8 [H, W, 3], or of the middle of a volume float32 [D, H, W]
    in [0, 255]."""
    shown = pixels if pixels.dtype == np.uint8 else pixels[len(pixels) // 2].astype(np.uint8)
    image = Image.fromarray(shown)
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    return _uri(image)


def _uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def slices(
    files: Mapping[Slot, Path], slots: Sequence[Slot], boxes: Sequence[Prediction] = ()
) -> str:
    """Some of a patient's images side by side, with the boxes that were predicted in each."""
    figures = []
    for slot in slots:
        uri, (width, height) = inline(files[slot])
        name = f"sagittal slice {slot}" if isinstance(slot, int) else f"axial slice {slot}"
        found = [one for one in boxes if one.box is not None and slot in one.slices]
        drawn = "".join(_drawn(one.object, one.box) for one in found if one.box)
        svg = f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{drawn}</svg>' * bool(drawn)
        figures.append(
            f'<figure><div class="spine-slice"><img src="{uri}" alt="{name}">{svg}</div>'
            f"<figcaption>{name}</figcaption></figure>"
        )
    return f'<div class="spine-row">{"".join(figures)}</div>' if figures else ""


def map_over(path: Path, one: OcclusionMap) -> str:
    """An image with the cells of its map in colour, as strong as the largest one of the map."""
    uri, _ = inline(path)
    rows, columns = one.drops.shape
    highest = float(np.abs(one.drops).max())
    cells = "".join(
        f'<rect x="{column}" y="{row}" width="1" height="1" '
        f'fill="{"#e31a1c" if drop > 0 else "#1f78b4"}" '
        f'fill-opacity="{0.75 * abs(drop) / highest if highest else 0:.3f}">'
        f"<title>{100 * drop:+.1f} points</title></rect>"
        for (row, column), drop in np.ndenumerate(one.drops)
    )
    kind = one.image.level if one.image.slice is None else one.image.slice
    name = f"{one.image.plane} {kind}"
    return (
        f'<figure><div class="spine-slice"><img src="{uri}" alt="{escape(name)}">'
        f'<svg viewBox="0 0 {columns} {rows}" preserveAspectRatio="none">{cells}</svg></div>'
        f"<figcaption>{escape(name)}: {100 * one.probability:.0f}% with nothing covered; a covered "
        f"place changes it by at most {100 * highest:.1f} points</figcaption></figure>"
    )


def maps(heading: str, figures: str) -> str:
    """The maps of one answer below what they are of."""
    return f'<h4 class="spine-task">{escape(heading)}</h4><div class="spine-row">{figures}</div>'


def _drawn(vertebra: str, box: Box) -> str:
    width, height = box.x2 - box.x1, box.y2 - box.y1
    return (
        f'<rect x="{box.x1}" y="{box.y1}" width="{width}" height="{height}" fill="none" '
        'stroke="#ffd166" stroke-width="1.5"/>'
        f'<text x="{box.x1 + 2}" y="{box.y1 + 10}" font-size="10" fill="#ffd166">'
        f"{escape(vertebra)}</text>"
    )


def note_on_boxes(tasks: Mapping[str, Task]) -> str:
    """Whether the model draws boxes: where none are seen, it may have been trained on none."""
    titles = [one.title for one in tasks.values() if not one.closed]
    told = (
        f"The answers draw the predicted {escape(' and '.join(titles))} in the sagittal slices."
        if titles
        else "No boxes are drawn: this checkpoint was not trained on <code>positioning</code>."
    )
    return f'<p class="spine-small">{told}</p>'


def strip(tasks: Mapping[str, Task], answers: Sequence[Prediction], level: str = "") -> str:
    """The probability of each option for every level and task; ``level`` is marked."""
    parts = []
    for task in tasks.values():
        own = [one for one in answers if one.task == task.name]
        if not own:
            continue
        if not task.closed:
            parts.append(f'<h4 class="spine-task">{escape(task.title)}</h4>{_box_rows(own)}')
            continue
        legend = "".join(
            f'<span><i style="background:{_colour(place)}"></i>{escape(choice)}</span>'
            for place, (_, choice) in enumerate(_in_order(task))
        )
        rows = "".join(_row(task, one, chosen=bool(level) and one.object == level) for one in own)
        parts.append(
            f'<h4 class="spine-task">{escape(task.title)}</h4>'
            f'<div class="spine-legend">{legend}</div>'
            f'<table class="spine-strip" data-task="{escape(task.name)}">{rows}</table>'
        )
    return "".join(parts)


def _box_rows(answers: Sequence[Prediction]) -> str:
    """A row for each vertebra: its box in each slice, or the answer that holds none."""
    rows: dict[str, list[str]] = {}
    for one in answers:
        slices = ", ".join(map(str, one.slices))
        box = one.box.as_list() if one.box else f"no box in the answer {one.text!r}"
        rows.setdefault(one.object, []).append(f"slice {slices}: {box}")
    told = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape("; ".join(found))}</td></tr>'
        for name, found in rows.items()
    )
    return f'<table class="spine-strip">{told}</table>'


def _row(task: Task, one: Prediction, *, chosen: bool) -> str:
    table = one.probabilities or {}
    shares = {k: table.get(k, 0.0) for k, _ in _in_order(task)}
    told = ", ".join(f"{task.choices[k]} {100 * share:.1f}%" for k, share in shares.items())
    bars = "".join(
        f'<i style="width:{100 * share:.2f}%;background:{_colour(place)}"></i>'
        for place, share in enumerate(shares.values())
    )
    said = "" if one.choice is None else task.choices[one.choice]
    percent = "" if one.choice is None else f" {100 * shares[one.choice]:.0f}%"
    truth = ""
    if isinstance(one.truth, int):
        truth = " ✓" if one.correct else f" (true: {escape(task.choices[one.truth])})"
    name = one.object or "whole spine"
    return (
        f'<tr data-level="{escape(one.object)}"{" class=chosen" * chosen}>'
        f'<th scope="row">{escape(name)}</th>'
        f'<td><div class="spine-bar" role="img" title="{escape(told)}" '
        f'aria-label="{escape(told)}">{bars}</div></td>'
        f'<td class="said">{escape(said)}{percent}{truth}</td></tr>'
    )


def _in_order(task: Task) -> list[tuple[int, str]]:
    """(label, option) by the options' letters."""
    return sorted(enumerate(task.choices), key=lambda pair: pair[1])


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]


def thumbnails(images: Iterable[tuple[str, str]]) -> str:
    """(name, data URI) of images, side by side."""
    figures = "".join(
        f'<figure title="{escape(name)}"><img src="{uri}" alt="">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, uri in images
    )
    return f'<div class="spine-row spine-thumbs">{figures}</div>' if figures else ""


def turn(who: str, text: str, above: str = "") -> str:
    """One turn of a conversation; ``above`` is markup of ours."""
    kind = "spine-user" if who == "You" else "spine-model"
    return f'<div class="spine-turn {kind}"><b>{who}</b>{above}{escape(text)}</div>'

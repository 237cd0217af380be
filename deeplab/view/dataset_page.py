"""The HTML page about a data set: possible problems, classes and sizes, images with masks, and training crops."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab.data.input.training_batches import Crop
from deeplab.labels import VOID_LABEL, foreground, has_background
from deeplab.view import page, pictures
from deeplab.view.survey import SHOWN_NAMES, SMALL_AREA, Shown, Survey, fit, most_common_sizes
from deeplab.view.template import Markup, Template

_TEMPLATE = Template(Path(__file__).with_name("dataset_page.html"))
_SHOWN_SIZES = 4
_MUCH_VOID = 0.4


def render(title: str, survey: Survey, crops: Sequence[Crop], facts: Mapping[str, object]) -> str:
    """The page as text; `facts` state what was examined and how crops are made."""
    labeled, void = _labeled_and_void(survey)
    tiles: dict[str, object] = {f"images in {split}": f"{len(part.sizes):,}" for split, part in survey.splits.items()}
    tiles |= {"classes": len(survey.class_names), "of all pixels are void": _share(void, labeled + void)}

    odd = [*survey.odd(), *_odd_crops(crops)]
    items = Markup.joined(_TEMPLATE.fill("odd_item", text=text) for text in odd)

    sections = {
        "Possible problems": (
            _TEMPLATE.fill("odd", items=items) if odd else _TEMPLATE.fill("note", text="None were found.")
        ),
        "Images and masks": _sheet(
            "Some random images, the largest and smallest if sizes differ, those with most void, and every class. "
            "Void is neither trained on nor scored."
            f"{' Background is not colored.' * has_background(survey.class_names)}",
            [_example(shown, survey.class_names) for shown in survey.examples()],
        ),
        "What the network sees": _sheet(
            "The first training crops, with random scales, places and colours. Void and padding are not trained on.",
            [_crop(crop, survey.class_names) for crop in crops],
        ),
        "Classes": _classes(survey),
        "Small objects": _small_objects(survey),
        "Sizes": _sizes(survey),
        "Source": page.facts(facts),
    }
    return page.render(title, tiles, sections)


def _odd_crops(crops: Sequence[Crop]) -> list[str]:
    share = float(np.mean([crop.mask == VOID_LABEL for crop in crops]))
    if share <= _MUCH_VOID:
        return []
    return [f"{100 * share:.0f} % of the training crops is void or padding; a smaller --crop_size may reduce it."]


def _labeled_and_void(survey: Survey) -> tuple[int, int]:
    pixels = np.sum([part.pixels for part in survey.splits.values()], 0)
    return int(pixels[:VOID_LABEL].sum()), int(pixels[VOID_LABEL])


def _sheet(note: str, figures: list[Markup]) -> Markup:
    return _TEMPLATE.fill("sheet", note=note, figures=Markup.joined(figures))


def _small_objects(survey: Survey) -> Markup:
    """A table of the classes that are smaller in some images than one cell of the output; links to examples below."""
    shown = {(each.split, each.name) for each in survey.examples()}
    rows = []
    for index, places in sorted(survey.small.items()):
        links = [
            page.link_within("/".join(place))
            for place in sorted(places, key=lambda place: place not in shown)[:SHOWN_NAMES]
            if place in shown
        ]
        images = sum(int(part.images_with[index]) for part in survey.splits.values())
        rows.append(
            _TEMPLATE.fill(
                "small_row",
                class_name=page.class_name(index, survey.class_names),
                number=f"{len(places):,}",
                share=_share(len(places), images),
                links=Markup(", ".join(links)),
            )
        )
    if not rows:
        return Markup()
    note = f"Images with fewer than {SMALL_AREA} pixels of a class: one cell of the network's output at stride 16."
    return _TEMPLATE.fill("small", note=note, rows=Markup.joined(rows))


def _example(shown: Shown, class_names: Sequence[str]) -> Markup:
    about = f"{shown.split}, {shown.size[0]}x{shown.size[1]}: {', '.join(shown.reasons)}"
    return _figure((shown.split, shown.name), about, (shown.image, shown.mask), shown.class_pixels, class_names)


def _crop(crop: Crop, class_names: Sequence[str]) -> Markup:
    pixels = np.bincount(crop.mask.ravel(), minlength=256)
    return _figure(("crop", crop.name), "", fit(crop.image, crop.mask), pixels, class_names)


def _figure(
    place: tuple[str, str],
    about: str,
    pair: tuple[np.ndarray, np.ndarray],
    class_pixels: np.ndarray,
    class_names: Sequence[str],
) -> Markup:
    """An image and its mask over it; `place` is (split, name)."""
    image, mask = pair
    name = place[1]
    indices = np.flatnonzero(class_pixels).tolist()
    words = ", ".join(
        f"{'void' if index == VOID_LABEL else class_names[index]} {_share(class_pixels[index], class_pixels.sum())}"
        for index in indices
    )
    drawn = [*foreground(class_names), VOID_LABEL]
    shown = (
        page.image(Image.fromarray(image), f"The image {name}", "JPEG"),
        page.image(pictures.overlay(image, mask, class_names, drawn), f"Its mask over it: {words}", "JPEG"),
    )
    return _TEMPLATE.fill(
        "example",
        place=page.quoted("/".join(place)),
        name=name,
        about=about,
        legend=page.legend([index for index in indices if index in drawn], class_names),
        pictures=Markup.joined(_TEMPLATE.fill("picture", image=image) for image in shown),
    )


def _classes(survey: Survey) -> Markup:
    """A table of the classes and void, with their share of the pixels and number of images in each split."""
    heads = [f"{what} {split}" for split in survey.splits for what in ("pixels of", "images of")]
    total = np.sum([part.pixels for part in survey.splits.values()], 0)

    # Shares of the labeled pixels; void's is of all pixels.
    rows = []
    for index in (*range(len(survey.class_names)), VOID_LABEL):
        cells = []
        for part in survey.splits.values():
            base = part.pixels.sum() - (0 if index == VOID_LABEL else part.pixels[VOID_LABEL])
            cells += [_share(part.pixels[index], base), f"{part.images_with[index]:,}"]
        base = total.sum() - (0 if index == VOID_LABEL else total[VOID_LABEL])
        rows.append(
            _TEMPLATE.fill(
                "class_row",
                class_name=page.class_name(index, survey.class_names),
                width=f"{100 * total[index] / max(base, 1):.1f}",
                cells=Markup.joined(_TEMPLATE.fill("cell", text=text) for text in cells),
            )
        )

    return _TEMPLATE.fill(
        "classes",
        head=Markup.joined(_TEMPLATE.fill("head", text=text) for text in heads),
        rows=Markup.joined(rows),
        note="Shares are of the labelled pixels; the share of void is of all pixels.",
    )


def _sizes(survey: Survey) -> Markup:
    rows = []
    for split, part in survey.splits.items():
        ordered = sorted(part.sizes, key=lambda size: (size[0] * size[1], size))
        smallest, median, largest = (_size(ordered[place]) for place in (0, len(ordered) // 2, -1))
        common = ", ".join(
            f"{_size(size)} ({number:,})" for size, number in most_common_sizes(part.sizes, _SHOWN_SIZES)
        )
        rows.append(
            _TEMPLATE.fill("size_row", split=split, smallest=smallest, median=median, largest=largest, common=common)
        )
    return _TEMPLATE.fill("sizes", rows=Markup.joined(rows))


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _share(number: int, total: int) -> str:
    return f"{100 * number / max(total, 1):.2f} %"

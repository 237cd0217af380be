"""The page of `deeplab.app`, in Gradio: its parts, and what they do."""

import functools
import html
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gradio as gr
from starlette.middleware import Middleware

from deeplab.commands.app.guard import Guard
from deeplab.commands.app.trial import Trial
from deeplab.errors import DeepLabError, UsageError
from deeplab.model.settings import Inference
from deeplab.view.pictures import OPACITY

STYLE = f"""
#segmented .mask {{ opacity: var(--mask-opacity, {OPACITY}); }}
#picture img, #heat img {{ width: 100%; height: 100%; object-fit: contain; }}
#heading, #status {{ overflow-wrap: anywhere; }}
#status .bad {{ color: #c81e1e; font-weight: 600; }}
.dark #status .bad {{ color: #f98080; }}
#shown label::before {{ content: ""; width: 0.8em; height: 0.8em; border: 1px solid grey; margin-right: 0.4em; }}
#picture img, #segmented img, #heat img {{ cursor: crosshair; }}
"""
_HEIGHT = 420
"""Pixels of the picture, of the mask and of the heat map on the page."""

_CLICKS = """() => document.addEventListener("click", click => {
    const clicked = click.target.closest("#picture img, #segmented img, #heat img");
    const heat = document.querySelector("#heat img");
    if (!clicked || !heat || !click.isTrusted) return;
    click.stopPropagation();
    const [from, to] = [[clicked, Infinity], [heat, 1]].map(([image, largest]) => {
        const box = image.getBoundingClientRect();
        const [width, height] = [image.naturalWidth, image.naturalHeight];
        const scale = Math.min(box.width / width, box.height / height, largest);
        const [left, top] = [box.left + (box.width - scale * width) / 2, box.top + (box.height - scale * height) / 2];
        return { left, top, width, height, scale };
    });
    const x = Math.floor((click.clientX - from.left) / from.scale / from.width * to.width);
    const y = Math.floor((click.clientY - from.top) / from.scale / from.height * to.height);
    const [clientX, clientY] = [to.left + x * to.scale, to.top + y * to.scale].map(Math.round);
    heat.dispatchEvent(new MouseEvent("click", { clientX, clientY, bubbles: true }));
}, true)"""
"""Passes clicks on the picture, the mask and the heat map on to the heat map, where Gradio looks for their pixel.

Gradio tells no place of a click on a mask, and takes small pictures for not enlarged, as its own style has them.
"""

_NAME_EMPTY_PARTS = """() => {
    const name = () => {
        for (const part of document.querySelectorAll(".empty[aria-label]:not([role])")) part.role = "img";
    };
    name();
    new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
}"""
"""Gradio names a part without a value on an element whose name screen readers ignore, as it has no role."""

_SET_OPACITY = "value => { document.documentElement.style.setProperty('--mask-opacity', value); return value; }"
_KEPT_SECONDS = 3600

LONGEST_QUEUE = 16
"""Requests that wait; one more is refused."""


class Segment(Protocol):
    """Segments pictures by their path and the chosen values of the parts of `Choices`, if any."""

    def __call__(self, path: str, *chosen: Any) -> Trial:  # noqa: ANN401
        """Raises DeepLabError."""

    def expected(self, path: str, *chosen: Any) -> tuple[int, float | None]:  # noqa: ANN401
        """The number of pixels, and the seconds that they will take, if known; raises DeepLabError."""


@dataclass(frozen=True)
class Choices:
    """The settings on the page: the values to choose from, and those chosen at first."""

    output_strides: Sequence[int]
    output_stride: int
    scales: Sequence[float]
    inference: Inference

    def as_parts(self) -> list[gr.components.Component]:
        """The parts of the page for output stride, scales and flip."""
        chosen = [*self.inference.scales]
        return [
            gr.Radio([*self.output_strides], value=self.output_stride, label="Output stride"),
            gr.CheckboxGroup(sorted({*self.scales, *chosen}), value=chosen, label="Scales to average over"),
            gr.Checkbox(self.inference.flip, label="Also average over the mirrored picture"),
        ]


def build(
    heading: Sequence[str],
    segment: Segment,
    class_names: Sequence[str],
    choices: Choices | None,
    examples: Sequence[str],
) -> gr.Blocks:
    """The page. `heading` are lines, `examples` paths of pictures; `segment` is called for one picture at a time."""
    title, *below = map(html.escape, heading)
    with gr.Blocks(title="deeplab", analytics_enabled=False, delete_cache=(_KEPT_SECONDS, _KEPT_SECONDS)) as page:
        gr.HTML(f"<h1>{title}</h1>{'<br>'.join(below)}", elem_id="heading")
        trial = gr.State(time_to_live=_KEPT_SECONDS, delete_callback=_forget)
        with gr.Row():
            with gr.Column():
                picture = gr.Image(
                    label="Picture",
                    type="filepath",
                    height=_HEIGHT,
                    buttons=[],
                    elem_id="picture",
                    alt_text="The picture",
                )
                picture.preprocess = _as_uploaded
                if examples:
                    gr.Examples([*examples], picture, label="Validation pictures")
                with gr.Accordion("Settings", open=False, visible=choices is not None):
                    settings = choices.as_parts() if choices else []
            with gr.Column():
                segmented = gr.AnnotatedImage(
                    label="Mask", format="png", height=_HEIGHT, show_legend=False, elem_id="segmented"
                )
                status = gr.HTML(elem_id="status")
                opacity = gr.Slider(0, 1, OPACITY, step=0.05, label="Opacity", buttons=[], elem_id="opacity")
                shown = gr.CheckboxGroup([], label="Classes and their shares", elem_id="shown")
                with gr.Row():
                    mask = gr.DownloadButton("Download mask", interactive=False, elem_id="mask")
                    overlay = gr.DownloadButton("Download overlay", interactive=False, elem_id="overlay")
        with gr.Row():
            with gr.Column():
                indices = [(name, index) for index, name in enumerate(class_names)]
                heated = gr.Dropdown(indices, value=0, label="Probability of a class", elem_id="heated")
                heat = gr.Image(
                    label="From black (0) to white (1)",
                    format="png",
                    height=_HEIGHT,
                    buttons=["fullscreen"],
                    elem_id="heat",
                    alt_text="The heat map",
                )
            point = gr.Label(label="Probabilities where you click", num_top_classes=5, elem_id="point")

        drawn = [segmented, overlay]
        gr.on(
            [picture.change, *(setting.change for setting in settings)],
            functools.partial(_segment, segment),
            [picture, heated, opacity, *settings],
            [trial, status, shown, mask, heated, heat, point, *drawn],
            api_name="segment",
            show_progress="hidden",
        )
        page.load(None, js=_CLICKS)
        page.load(None, js=_NAME_EMPTY_PARTS)
        opacity.input(None, opacity, js=_SET_OPACITY)
        gr.on([opacity.release, shown.input], _draw, [trial, shown, opacity], drawn, api_name="draw")
        heated.input(_heat, [trial, heated], heat, api_name="heat")
        heat.select(_probabilities, trial, point, api_name=False)
    return page


def serve(page: gr.Blocks, host: str, port: int, guard: Callable[..., Guard], max_upload: int) -> None:
    """Serves the page in the background, one request at a time; `guard` makes what stands before Gradio.

    Raises:
        UsageError: the port is taken, or the address is not of this machine.
    """
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    theme.set(body_text_color_subdued="*neutral_500")  # Gradio's own gray is too light to be read
    page.queue(default_concurrency_limit=1, max_size=LONGEST_QUEUE, api_open=False)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            max_file_size=max_upload,
            app_kwargs={"middleware": [Middleware(guard)]},
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            theme=theme,
            css=STYLE,
            footer_links=[],
            ssr_mode=False,
        )
    except OSError as error:
        raise UsageError(f"--port={port}: taken, or --host={host} is not an address of this machine") from error


def _as_uploaded(payload: Any) -> str | None:  # noqa: ANN401
    """The path of the file as it was uploaded; Gradio's own function opens it first, and fails for other files."""
    return payload and payload.path


def _segment(
    segment: Segment,
    path: str | None,
    heated: int,
    opacity: float,
    *settings: Any,  # noqa: ANN401
) -> Iterator[list]:
    """What the page shows: how long it will take, then the picture, or why it cannot be segmented."""
    trial = None
    status = ""
    if path is not None:
        try:
            yield [gr.skip(), _announced(*segment.expected(path, *settings)), *[gr.skip()] * 7]
            trial = segment(path, *settings)
            height, width, _ = trial.image.shape
            status = html.escape(f"{trial.name}: {width}x{height} pixels") + _swatches(trial)
        except DeepLabError as error:
            status = f'<span class="bad">{html.escape(str(error))}</span>'
    if trial is None:
        nothing = gr.CheckboxGroup([], value=[])
        yield [None, status, nothing, _download(None), heated, None, None, *_draw(None, [], opacity)]
        return
    shown = trial.foreground
    if heated not in shown:
        heated = (shown or [0])[0]
    ticked = gr.CheckboxGroup([(text, index) for index, text in trial.texts.items()], value=shown)
    mask = _download(trial.save_mask())
    yield [trial, status, ticked, mask, heated, _heat(trial, heated), None, *_draw(trial, shown, opacity)]


def _announced(num_pixels: int, seconds: float | None) -> str:
    """What the page says before a picture is segmented."""
    how_long = "no estimate yet, as it is the first with these settings"
    if seconds is not None:
        how_long = f"about {max(round(seconds), 1):,} s, at the best rate so far"
    return f"Segmenting {num_pixels:,} pixels: {how_long} ..."


def _swatches(trial: Trial) -> str:
    """The colors of the squares beside the classes: Gradio's list of them takes text only."""
    rules = [
        f"#shown label:nth-of-type({number})::before {{ background: {color}; }}"
        for number, color in enumerate(trial.swatches.values(), 1)
    ]
    return f"<style>{' '.join(rules)}</style>"


def _draw(trial: Trial | None, shown: Sequence[int], opacity: float) -> tuple[gr.AnnotatedImage, gr.DownloadButton]:
    if trial is None:
        return gr.AnnotatedImage(value=None), _download(None)
    image, layers, colors = trial.layers(shown)
    overlay = trial.save_overlay(shown, opacity)
    return gr.AnnotatedImage(value=(image, layers), color_map=colors), _download(overlay)


def _heat(trial: Trial | None, index: int) -> Any:  # noqa: ANN401
    return trial and trial.heat_map(index)


def _probabilities(trial: Trial | None, event: gr.SelectData) -> dict[str, float] | None:
    return trial.at(*event.index) if trial is not None else None


def _download(path: str | None) -> gr.DownloadButton:
    return gr.DownloadButton(value=path, interactive=path is not None)


def _forget(trial: Trial | None) -> None:
    if trial is not None:
        shutil.rmtree(trial.folder, ignore_errors=True)

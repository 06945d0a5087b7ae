"""The chat tab: free questions about images, volumes or nothing, in several turns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from spinevl.playground import pictures
from spinevl.playground.engine import ChatOptions, Engine, question_with_images
from spinevl.playground.messages import told, waiting
from spinevl.playground.uploads import Shown
from spinevl.playground.visitors import Visitor, Visitors
from spinevl.schema.conversation import PLACEHOLDER
from spinevl.schema.errors import refused

# the text is in the page already; a file that the server would have to serve is not needed
_DOWNLOAD = """(text) => {
  if (!text) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = "conversation.json";
  link.click();
  URL.revokeObjectURL(link.href);
}"""


@dataclass
class ChatTab:
    """What the chat tab does; Gradio calls it.

    Attributes:
        engine: answers.
        visitors: whose conversation is whose.
    """

    engine: Engine
    visitors: Visitors

    def build(self) -> None:
        """Add the tab to the page."""
        limits = self.engine.limits
        kinds = {"image": "images (PNG, JPEG, BMP, WebP)", "image3d": "volumes (.npy, NIfTI)"}
        shown = " and ".join(kinds[one] for one in self.engine.modalities)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                history = gr.HTML(elem_id="history")
                answer = gr.HTML(elem_id="answer")
                message = gr.HTML(elem_id="chat-message")
                question = gr.Textbox(
                    label="Question", lines=2, elem_id="question",
                    max_length=limits.characters, placeholder="What do you see?",
                )  # fmt: skip
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", elem_id="ask", min_width=120)
                    stop = gr.Button("Stop", elem_id="stop", min_width=120)
                    clear = gr.Button("Clear", elem_id="clear", min_width=120)
                    download = gr.Button("Download", elem_id="download", min_width=120)
            with gr.Column(scale=1, min_width=280):
                files = gr.File(
                    label="Images for the next question", file_count="multiple", height=150,
                    elem_id="images",
                )  # fmt: skip
                gr.HTML(f'<p class="spine-small">This checkpoint reads {shown}.</p>')
                pending = gr.HTML(elem_id="pending")
                with gr.Accordion("How it answers", open=False):
                    temperature = gr.Slider(
                        0, 2, value=0, step=0.05, label="Temperature (0: no sampling)"
                    )
                    top_p = gr.Slider(0.01, 1, value=1, step=0.01, label="Top-p")
                    most = gr.Slider(
                        1, limits.new_tokens, value=min(256, limits.new_tokens), step=1,
                        label="Maximum tokens",
                    )  # fmt: skip
                    penalty = gr.Slider(1, 2, value=1, step=0.05, label="Repetition penalty")
        text = gr.Textbox(visible="hidden", elem_id="conversation-json")
        settings = [temperature, top_p, most, penalty]
        outputs = [history, answer, message, question, pending]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        files.upload(self.take, [files], [files, pending, message], **private)
        ask.click(self.ask, [question, *settings], outputs, **private)
        stop.click(self.stop, None, None, **private)
        clear.click(self.clear, None, outputs, **private)
        saved = download.click(self.saved, None, [text, message], **private)
        saved.then(None, [text], None, js=_DOWNLOAD, api_visibility="private")

    def take(self, files: list[str], request: gr.Request) -> tuple[None, str, str]:
        """A visitor has dropped images for the next question."""
        visitor = self.visitors.of(request.session_hash)
        try:
            received = self.visitors.uploads.all_received(files)
            most = self.engine.limits.images
            total = len(received) + len(visitor.new_images) + len(visitor.images)
            if total > most:
                wanted = f"at most {most} images (limits.images)"
                raise refused("the conversation", wanted, str(total), "clear it")
            uploads = self.visitors.uploads
            taken = uploads.take_images(received, visitor.folder, self.engine.window)
            unread = [one for one in taken if one.image.modality not in self.engine.modalities]
            if unread:
                uploads.discard_taken(taken)
                wanted = " and ".join(self.engine.modalities)
                found = unread[0].image.modality
                raise refused(unread[0].name, wanted, found, "the checkpoint reads no other")
            visitor.new_images += taken
        except Exception as error:
            return None, self._thumbnails(visitor.new_images), told(error)
        return None, self._thumbnails(visitor.new_images), ""

    def ask(
        self,
        question: str | None,
        temperature: float,
        top_p: float,
        most: float,
        penalty: float,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Ask, and show the answer as it is written."""
        visitor = self.visitors.of(request.session_hash)
        visitor.stop()
        same: Any = gr.skip()
        said = ""
        try:
            shown = list(visitor.new_images)
            text = question_with_images(
                (question or "").strip(), [one.image.modality for one in shown]
            )
            shown = _in_order(text, shown)
            images = [one.image for one in [*visitor.images, *shown]]
            options = ChatOptions.told(
                temperature=temperature,
                top_p=top_p,
                repetition_penalty=penalty,
                new_tokens=most,
            )
            visitor.job = job = self.engine.ask((*visitor.rounds, (text, None)), images, options)
            asked = self._question(text, shown)
            before = self._history(visitor)
            first = True
            for update in job.updates():
                said = update.value if update.value is not None else said
                status = pictures.status("" if said else waiting(update.ahead))
                if first:
                    yield before + asked, "", status, "", ""
                    first = False
                yield same, pictures.turn("Model", said) if said else "", status, same, same
            if visitor.job is not job:  # the visitor has cleared the page, or asked anew
                return
            if kept := bool(said) or not job.stopped:
                visitor.rounds.append((text, said))
                visitor.images += shown
                visitor.new_images = [one for one in visitor.new_images if one not in shown]
            left = self._thumbnails(visitor.new_images)
            yield self._history(visitor), "", "", "" if kept else question, left
        except Exception as error:
            left = self._thumbnails(visitor.new_images)
            names = {one.image.path: one.name for one in [*visitor.images, *visitor.new_images]}
            yield self._history(visitor), "", told(error, names), question, left

    def stop(self, request: gr.Request) -> None:
        """A visitor has read enough."""
        self.visitors.of(request.session_hash).stop()

    def clear(self, request: gr.Request) -> tuple[str, str, str, str, str]:
        """A visitor begins anew."""
        visitor = self.visitors.of(request.session_hash)
        visitor.stop()
        visitor.job = None
        visitor.forget_conversation()
        return "", "", "", "", ""

    def saved(self, request: gr.Request) -> tuple[str, str]:
        """The conversation as ``data=conversations`` reads it."""
        visitor = self.visitors.of(request.session_hash)
        if not visitor.rounds:
            return "", pictures.problem(["there is no conversation to download yet: ask something"])
        return conversation_json(visitor), ""

    def _history(self, visitor: Visitor) -> str:
        parts = []
        images = iter(visitor.images)
        for question, answer in visitor.rounds:
            count = len(PLACEHOLDER.findall(question))
            parts.append(self._question(question, [next(images) for _ in range(count)]))
            parts.append(pictures.turn("Model", answer))
        return "".join(parts)

    def _question(self, text: str, images: list[Shown]) -> str:
        return pictures.turn("You", PLACEHOLDER.sub("", text).strip(), self._thumbnails(images))

    def _thumbnails(self, images: list[Shown]) -> str:
        return pictures.thumbnails((one.name, one.picture) for one in images)


def _in_order(text: str, images: list[Shown]) -> list[Shown]:
    """Images in the order of their placeholders, those of a kind as they came."""
    kinds: dict[str, Iterator[Shown]] = {
        kind: iter([one for one in images if one.image.modality == kind])
        for kind in ("image", "image3d")
    }
    return [next(kinds[one.strip("<>")]) for one in PLACEHOLDER.findall(text)]


def conversation_json(visitor: Visitor) -> str:
    """The file of a conversation; images are named as they were dropped, numbered where needed."""
    names: dict[str, None] = {}
    by_kind: dict[str, list[str]] = {"image": [], "image3d": []}
    for one in visitor.images:
        name = re.sub(r"[^\w.-]+", "_", one.name).lstrip(".") or "image"
        number = 2
        while name in names:
            stem, dot, suffix = one.name.partition(".")
            name = re.sub(r"[^\w.-]+", "_", f"{stem}-{number}{dot}{suffix}")
            number += 1
        names[name] = None
        by_kind[one.image.modality].append(name)
    turns = [
        {"from": role, "value": text}
        for pair in visitor.rounds
        for role, text in zip(("human", "gpt"), pair, strict=True)
    ]
    shown = {kind: files for kind, files in by_kind.items() if files}
    record = {"id": "playground", **shown, "conversations": turns}
    return json.dumps([record], indent=2, ensure_ascii=False) + "\n"

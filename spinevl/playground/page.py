"""The page: its two tabs, and Gradio without everything that leaves this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from html import escape
from typing import Any

from spinevl.playground import pictures
from spinevl.playground.engine import Engine
from spinevl.playground.page_events import PageEvents
from spinevl.playground.samples import Sample
from spinevl.playground.uploads import Uploads
from spinevl.playground.visitors import Visitors
from spinevl.schema.errors import UserError

_MOST_EVENTS = 64
_SIDE_BY_SIDE = 16
_FONTS = ["system-ui", "Segoe UI", "DejaVu Sans", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "DejaVu Sans Mono", "monospace"]


def _require_gradio(uploads: Uploads) -> Any:
    """Gradio, told to keep what it receives in our folder and to call nobody.

    Raises:
        UserError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = "1000000000"  # pandas sums up after so many
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.incoming)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each damaged form
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise UserError(
            "the playground needs Gradio: pip install 'spinevl[playground]', or make playground, "
            "which gives it an environment of its own"
        ) from error
    return gradio


def make_app(
    engine: Engine, visitors: Visitors, samples: Sequence[Sample], *, told: str
) -> tuple[Any, PageEvents]:
    """The page as an ASGI application, not yet guarded, and what its scripts may post.

    Args:
        engine: answers.
        visitors: whose files are whose.
        samples: rendered patients.
        told: which checkpoint it is, for the head of the page.

    Raises:
        UserError: Gradio is not installed.
    """
    gr = _require_gradio(visitors.uploads)
    from fastapi import FastAPI
    from gradio.utils import LRUCache

    from spinevl.playground.chat_tab import ChatTab
    from spinevl.playground.study_tab import StudyTab

    def leave(request: Any) -> None:
        visitors.leave(request.session_hash)

    leave.__annotations__["request"] = gr.Request  # Gradio passes it by its type
    with gr.Blocks(title="spinevl playground", analytics_enabled=False) as page:
        gr.HTML(f"<h1>spinevl playground</h1><p>{escape(told)}</p>{pictures.NOT_CLINICAL}")
        with gr.Tab("Study"):
            StudyTab(engine, visitors, samples).build()
        with gr.Tab("Chat"):
            ChatTab(engine, visitors).build()
        page.unload(leave)
    page.state_session_capacity = visitors.uploads.limits.visitors
    page.queue(api_open=False, max_size=_MOST_EVENTS, default_concurrency_limit=_SIDE_BY_SIDE)
    # what tabs have not read, see Unread
    page._queue.pending_messages_per_session = LRUCache(visitors.uploads.limits.visitors)
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        server_name="127.0.0.1",
        allowed_paths=[],
        show_error=False,
        max_file_size=visitors.uploads.limits.upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        run_history=False,
        footer_links=[],
        theme=gr.themes.Base(font=_FONTS, font_mono=_MONO),
        css=pictures.CSS,
    )
    return app, PageEvents(page.config)

"""What the server remembers of each visitor."""

from __future__ import annotations

import gradio as gr
from gradio.state_holder import SessionState, StateHolder


class LeanSessions(StateHolder):
    """Gradio's sessions without the copy of every component's configuration, about 2 kB each.

    Gradio (6.31) keeps it for `gr.DeepLinkButton` alone; our links (`demos.ui.share`) hold what they
    need themselves. What an event changes is still written down, in Gradio's own way.
    """

    def __getitem__(self, session_id: str) -> SessionState:
        known = session_id in self
        session = super().__getitem__(session_id)
        if not known:
            session.config_values.clear()
        return session


def keep_sessions_lean(page: gr.Blocks) -> None:
    """Of a page that has been launched; to be called before anyone visits."""
    sessions = LeanSessions()  # type: ignore[no-untyped-call]
    sessions.set_blocks(page)
    page.app.state_holder = sessions

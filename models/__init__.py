"""CLIP Atelier's models: a library that knows no Gradio and works from a notebook."""

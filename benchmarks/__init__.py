"""What CLIP Atelier costs, measured: `python -m benchmarks.app`, `python -m benchmarks.clip`.

Where it makes sense a time is given as a ratio to a baseline in the same process, because that
stays true on another machine.
"""

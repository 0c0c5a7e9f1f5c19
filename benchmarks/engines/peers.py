"""List the peers by name."""

from importlib import import_module

from benchmarks.engines.peer_session import PeerEngine

MODULES = {"llama.cpp": "llama", "onnxruntime": "ort", "ctranslate2": "ct2"}


def peer(name: str) -> PeerEngine:
    """Return the engine of a key of `MODULES`; its packages are imported when they are used."""
    found = import_module(f"benchmarks.engines.{MODULES[name]}").ENGINE
    assert isinstance(found, PeerEngine)
    return found

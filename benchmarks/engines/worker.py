"""Build, measure or check one peer in a process: `worker ACTION JOB`, JSON on stdout."""

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.engines.job import (
    CHECKED_TOKENS,
    DECODED_TOKENS,
    DEPTH,
    PREFILL_TOKENS,
    Job,
    some_tokens,
)
from benchmarks.engines.peer_session import PeerEngine, PeerSession
from benchmarks.engines.peers import peer


def build(engine: PeerEngine, job: Job) -> dict[str, Any]:
    """Build the model, which gets its own name once it is whole."""
    path = Path(job.path)
    unfinished = path.with_name(f"unfinished-{path.name}")
    engine.build(job.source, job.variant, unfinished)
    unfinished.rename(path)
    return {"path": job.path}


def measure(engine: PeerEngine, job: Job) -> dict[str, Any]:
    """Return the fastest of the engine's settings, under the names of `Measurement`.

    Loading and memory are those of the first setting.
    """
    found: dict[str, Any] = {}
    for setting in engine.settings:
        start = perf_counter()
        session = engine.open(Path(job.path), job.variant, setting, job.threads)
        found.setdefault("load_seconds", perf_counter() - start)
        for phase, speed in speeds(session, job.vocab_size).items():
            if speed > found.get(f"{phase}_tokens_per_second", 0.0):
                found[f"{phase}_tokens_per_second"] = speed
                found[f"{phase}_setting"] = setting
        found.setdefault("peak_rss_bytes", peak_rss_bytes())
        del session
    return found


def speeds(session: PeerSession, vocab_size: int) -> dict[str, float]:
    """Return tokens a second of prefill and decode, each after a call that is not timed."""
    prompt = some_tokens(PREFILL_TOKENS, vocab_size)
    session.prefill(prompt)
    start = perf_counter()
    session.prefill(prompt)
    prefill_seconds = perf_counter() - start
    past, new = prompt[:DEPTH], some_tokens(DECODED_TOKENS, vocab_size)
    session.decode_seconds(past, new)
    return {
        "prefill": PREFILL_TOKENS / prefill_seconds,
        "decode": DECODED_TOKENS / session.decode_seconds(past, new),
    }


def write_logits(engine: PeerEngine, job: Job) -> dict[str, Any]:
    """Write the logits of the checked prompt's last token, float32 `[vocab]`."""
    import numpy as np

    session = engine.open(Path(job.path), job.variant, engine.settings[0], job.threads)
    logits = session.checked_logits(some_tokens(CHECKED_TOKENS, job.vocab_size))
    np.save(job.output, np.asarray(logits, np.float32))
    return {"path": job.output}


def first_token(engine: PeerEngine, job: Job) -> dict[str, Any]:
    """Return the likeliest token after a prompt of `DEPTH`."""
    session = engine.open(Path(job.path), job.variant, engine.settings[0], job.threads)
    logits = session.logits(some_tokens(DEPTH, job.vocab_size))
    return {"token": logits.index(max(logits))}


def peak_rss_bytes() -> int:
    from rbe_cli.jobs.peak_memory import peak_rss_bytes

    return peak_rss_bytes()


ACTIONS = {"build": build, "measure": measure, "logits": write_logits, "first-token": first_token}


def main() -> None:
    action, text = sys.argv[1:]
    job = Job.from_json(text)
    print(json.dumps(ACTIONS[action](peer(job.engine), job)))


if __name__ == "__main__":
    main()

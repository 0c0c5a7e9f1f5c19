"""Compare the speed of `rbe` with llama.cpp, ONNX Runtime and CTranslate2 on one GPT-2.

    python -m benchmarks.engines
    python -m benchmarks.engines --model FOLDER --rounds 5 --threads 2 --json FILE

The engines are optional (docs/results.md says how to install them); one that is absent is named
and left out. The same numbers come from every engine, each from a process of its own, and the
engines take turns so that all meet the same drift of the machine.

One file an engine: `llama`, `ort`, `ct2` open a model and run it, `rbe_engine` drives `rbe` by its
command line; `onnx_file` writes what the second reads. `worker` is the process that measures a
peer, `prepare` the one that makes the checkpoint and the reference's logits.
"""

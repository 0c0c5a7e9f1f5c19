"""Time layers and whole models, and describe the machine that they ran on.

`bench_run.Bench` yields the timings of `models` and `operators` as they are measured, and
`machine_info.Machine` goes with every result.
"""

"""Run coarse tasks side by side, keep their results, and measure peak memory.

`workers` hands on `Workers`, threads of this process or of a cluster; `work_folder` keeps what an
interrupted run has finished.
"""

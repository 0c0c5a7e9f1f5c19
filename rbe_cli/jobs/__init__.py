"""Runs work side by side: workers, the folder of an interrupted run, and the peak of memory."""

"""The `.rbe` file (docs/FORMAT.md): header, geometry, validation, reader and writer.

The reader maps the file and trusts nothing in it before it is checked; the writer
publishes a file whole or not at all.
"""

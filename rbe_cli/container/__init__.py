"""Read and write `.rbe` files (docs/FORMAT.md): header, layout, validation, reader, writer.

The reader checks every number of a file before using it. The writer gives a file its name only
once the file is complete.
"""

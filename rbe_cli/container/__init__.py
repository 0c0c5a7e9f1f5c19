"""Read and write `.rbe` files (docs/FORMAT.md): header, layout, validation, reader, writer.

The reader maps a file into memory and checks every number in it before using it. The writer
gives a file its name only once the file is complete.
"""

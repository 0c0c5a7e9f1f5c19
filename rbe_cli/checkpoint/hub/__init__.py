"""Read checkpoints and `.rbe` files from the Hugging Face hub and its cache. `hub_download.fetch`
and `hub_file.fetch_rbe` hand on paths of local files.
"""

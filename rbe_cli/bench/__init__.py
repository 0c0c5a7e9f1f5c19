"""Times layers and whole models, and describes the machine they ran on."""

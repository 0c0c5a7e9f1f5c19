"""What a GPT-2 is: its configuration, and the names and shapes of its tensors."""

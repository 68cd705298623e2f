"""Text: tokenizers, chat templates and roles; what an agent reads of a conversation, in its own encoding."""

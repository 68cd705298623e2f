"""The Llama family as Hugging Face writes it: Llama 2/3, SmolLM2, Qwen2/2.5, Qwen3, Mistral."""

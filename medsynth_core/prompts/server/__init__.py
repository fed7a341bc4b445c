"""What providers share that ask an OpenAI-compatible server: calls one by one, or in batches."""

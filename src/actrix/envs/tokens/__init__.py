"""Token environments: a given prompt, an answer token by token, and a verifier's reward where that ends."""

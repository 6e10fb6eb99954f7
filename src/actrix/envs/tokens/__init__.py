"""Token environments: a prompt that is given, an answer token by token, and a verifier's reward where the answer ends."""

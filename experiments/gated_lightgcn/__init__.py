"""Does gated content help?"""

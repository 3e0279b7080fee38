"""Prompts: writers that draft captions of an object in new contexts, and the checks every draft passes."""

"""The papers' methods: Edgeworth expansions of the privacy-loss sum, estimates all of them, and their intervals."""

"""How good is a single basin? (Lion, Noci, Hofmann & Bachmann, AISTATS 2024, arXiv 2402.03187)"""

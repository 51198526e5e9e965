"""The demo of ``make demo``: data, tokenizer, training, a kill, resume and conversion on two CPU cores.

It uses the product's public commands; nothing of the library may import it.
"""

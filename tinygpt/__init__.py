__version__ = "0.1.0"

from tinygpt.tokenizer import GPT2_SPLIT, GPT4_SPLIT, BPETokenizer, CharTokenizer

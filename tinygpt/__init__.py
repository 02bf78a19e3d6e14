__version__ = "0.1.0"

from tinygpt.tokenizer import GPT2_SPLIT, GPT4_SPLIT, BPETokenizer, CharTokenizer
from tinygpt.tales import answers, chat, logprob, skill_accuracy, spans, tale, the_tokenizer
from tinygpt.data import Corpus, Tokens, Windows, corpus, encode_corpus, in_order
from tinygpt.baseline import bits_per_byte, cross_entropy, evaluate, ladder, perplexity
from tinygpt.attention import Attention, attention_map
from tinygpt.block import MLP, Block
from tinygpt.gpt import GPT, GPTConfig, count_flops, count_parameters
from tinygpt.checkpoints import load, save
from tinygpt.optim import Muon, build_optimizers
from tinygpt.training import Record, TrainConfig, prime, train

__version__ = "0.1.0"

from tinygpt.engine.splitting import GPT2_SPLIT, GPT4_SPLIT
from tinygpt.tokenizer import BPETokenizer, CharTokenizer
from tinygpt.tales import chat, logprob, tale, the_tokenizer
from tinygpt.world.parser import answers
from tinygpt.world.skills import skill_accuracy, spans
from tinygpt.data import Windows, validation_batches
from tinygpt.io.corpus import Corpus, corpus
from tinygpt.io.tokens import Tokens, encode_corpus
from tinygpt.baseline import bits_per_byte, cross_entropy, evaluate, perplexity
from tinygpt.show.ladder import ladder
from tinygpt.attention import Attention
from tinygpt.show.attention import attention_map
from tinygpt.block import MLP, Block, SwiGLU
from tinygpt.gpt import GPT, GPTConfig, count_flops, count_parameters
from tinygpt.io.checkpoints import load, save
from tinygpt.optim import Muon, build_optimizers
from tinygpt.io.log import Record
from tinygpt.training import TrainConfig, train
from tinygpt.engine.prime import prime

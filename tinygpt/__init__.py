"""What `import tinygpt as tg` offers."""

import tinygpt.engine.interrupts  # first: PyTorch takes seconds, in which a command may be stopped
from tinygpt.attention import Attention
from tinygpt.baseline import bits_per_byte, cross_entropy, evaluate, perplexity
from tinygpt.block import MLP, Block, SwiGLU
from tinygpt.chat import chat_accuracy, encode_chat, reply
from tinygpt.data import Windows, validation_batches
from tinygpt.engine.splitting import GPT2_SPLIT, GPT4_SPLIT
from tinygpt.gpt import GPT, GPTConfig, count_flops, count_parameters
from tinygpt.inside import (
    attribute,
    copy_accuracy,
    first_token_scores,
    induction_scores,
    logit_lens,
    patch_heads,
    previous_token_scores,
    repeated_tokens,
    trace,
)
from tinygpt.io.checkpoints import load, save
from tinygpt.io.corpus import Corpus, corpus
from tinygpt.io.log import Record
from tinygpt.io.tokens import Tokens, encode_corpus
from tinygpt.optim import Muon, build_optimizers
from tinygpt.sample import generate, stream
from tinygpt.show.attention import attention_map
from tinygpt.show.chat_panel import ChatPanel
from tinygpt.show.explorer import explore
from tinygpt.show.sampler import SamplerPanel
from tinygpt.show.training import ladder
from tinygpt.tales import chat, logprob, tale, the_tokenizer
from tinygpt.tokenizer import BPETokenizer, CharTokenizer
from tinygpt.training import TrainConfig, train
from tinygpt.world.next_token import next_token
from tinygpt.world.parser import answers
from tinygpt.world.skills import skill_accuracy, spans

__version__ = "0.1.0"

# In the order in which a user needs them; the site's page of the package has these groups.
__all__ = [
    # A text to learn from
    "corpus", "Corpus", "tale", "chat",
    # Tokenizers
    "the_tokenizer", "BPETokenizer", "CharTokenizer", "GPT2_SPLIT", "GPT4_SPLIT",
    # A model
    "GPTConfig", "GPT", "count_parameters", "count_flops",
    # Training
    "TrainConfig", "train", "Record",
    # Saving and loading
    "save", "load",
    # Writing
    "generate", "stream", "SamplerPanel",
    # Chat
    "reply", "ChatPanel", "encode_chat", "chat_accuracy",
    # Evaluation
    "evaluate", "cross_entropy", "perplexity", "bits_per_byte", "logprob", "next_token", "skill_accuracy", "spans",
    "answers",
    # Seeing inside
    "explore", "trace", "logit_lens", "attribute", "patch_heads", "previous_token_scores", "first_token_scores",
    "induction_scores", "repeated_tokens", "copy_accuracy",
    # Pictures
    "attention_map", "ladder",
    # Parts
    "encode_corpus", "Tokens", "Windows", "validation_batches", "Attention", "MLP", "SwiGLU", "Block",
    "build_optimizers", "Muon",
]

"""Contrastive training: what pretraining and contrastive finetuning have in common.

All of it is functions of a config, which has the fields, or properties, `modules` (towers by modality),
`objective`, `data`, `colour`, `preprocess`, `tokenizer`, `optim`, `accumulate`, `steps`, `log_every` and
`seed`; `Pretrain` is one. From the inside out: `modalities` says what towers are given, `loss` is the loss of
a batch, `accumulation` its gradient in parts (`row_keys` draws the same for every row), `step` the state and
one step, and `running` what a run needs around it.
"""

#!/usr/bin/env bash
# Stage 2, finetune, with LoRA: stage2.sh, but the language model learns through adapters alone. Rank, alpha and learning
# rates are LLaVA-1.5's for LoRA; batch, epochs and all else are those of stage2.sh. Both bash and Python, like stage1.sh.
#   deepspeed recipes/stage2_lora.sh [flags]     bash recipes/stage2_lora.sh [flags]
# Flags given here come last and win. MODEL, STAGE1, DATA, IMAGES and OUTPUT set the paths.
''':'
export OUTPUT="${OUTPUT:-checkpoints/pvit-stage2-lora}"
exec bash "$(dirname "$0")/stage2.sh" \
    --lora_enable True \
    --lora_r 128 \
    --lora_alpha 256 \
    --learning_rate 2e-4 \
    --mm_projector_lr 2e-5 \
    "$@"
'''
import os, sys
os.execvp("bash", ["bash", __file__, *sys.argv[1:]])
# closes the quote that bash sees opened above: '

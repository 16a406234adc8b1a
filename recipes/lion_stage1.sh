#!/usr/bin/env bash
# LION, stage 1, image-level (arXiv 2311.11860): trains the adapters of the task "image" and nothing else, on captions and
# questions about whole images. The paper's rates are not public; these are ours. Both bash and Python, like stage1.sh.
#   deepspeed recipes/lion_stage1.sh [flags]     bash recipes/lion_stage1.sh [flags]
# Flags given here come last and win. MODEL, DATA, IMAGES and OUTPUT set the paths. MODEL is a result of PVIT's stages, or
# a LLaVA; that has no region encoder yet, which REGION_ENCODER and REGION_WEIGHTS name (lion_stage2.sh trains its projector).
''':'
[ -n "${RANK:-}${ENTRY:-}" ] || exec deepspeed "$0" "$@"
exec ${ENTRY:-python -u -m pvit_ext.train} \
    --stage lion_image \
    --deepspeed "$(dirname "$0")/zero2.json" \
    --model_name_or_path "${MODEL:-checkpoints/pvit-stage2}" \
    ${REGION_ENCODER:+--region_encoder "$REGION_ENCODER"} \
    ${REGION_WEIGHTS:+--region_weights "$REGION_WEIGHTS"} \
    --region_lion_adapters 64 \
    --version v1 \
    --data_path "${DATA:-data/lion_images.json}" \
    --image_folder "${IMAGES:-data/images}" \
    --image_aspect_ratio pad \
    --output_dir "${OUTPUT:-checkpoints/lion-stage1}" \
    --num_train_epochs 1 \
    --per_device_train_batch_size 16 \
    --gradient_accumulation_steps 1 \
    --learning_rate 2e-4 \
    --weight_decay 0. \
    --warmup_ratio 0.03 \
    --lr_scheduler_type cosine \
    --bf16 True \
    --model_max_length 2048 \
    --gradient_checkpointing True \
    --save_strategy steps \
    --save_steps 500 \
    --save_total_limit 1 \
    --logging_steps 1 \
    --dataloader_num_workers 4 \
    --report_to none \
    "$@"
'''
import os, sys
os.execvp("bash", ["bash", __file__, *sys.argv[1:]])
# closes the quote that bash sees opened above: '

#!/usr/bin/env bash
# Stage 1, align: trains the region projector, the delimiters, and an encoder that is no frozen tower (RegionCLIP is one),
# nothing else. PVIT's settings (arXiv 2308.13437): learning rate 2e-3, global batch 128, 1 epoch. On G GPUs keep
# G * per_device_train_batch_size * gradient_accumulation_steps at 128. This file is both bash and Python, because
# `deepspeed FILE` hands it to Python.
#   deepspeed recipes/stage1.sh [flags]     bash recipes/stage1.sh [flags]
# Flags given here come last and win. MODEL, DATA, IMAGES, REGION_WEIGHTS and OUTPUT set the paths, REGION_ENCODER another
# encoder than regionclip, which starts without weights of its own unless REGION_WEIGHTS names them. Check the data first:
#   pvit-ext data FILE --image-folder DIR
# ENTRY is the command that gets the flags instead of training. This caches the outputs of the run's frozen towers:
#   ENTRY="pvit-ext data cache --out DIR --run" bash recipes/stage1.sh [flags]
''':'
[ -n "${RANK:-}${ENTRY:-}" ] || exec deepspeed "$0" "$@"
[ "${REGION_ENCODER:=regionclip}" != regionclip ] || : "${REGION_WEIGHTS=regionclip_pretrained-cc_rn50x4.pth}"
exec ${ENTRY:-python -u -m pvit_ext.train} \
    --stage align \
    --deepspeed "$(dirname "$0")/zero2.json" \
    --model_name_or_path "${MODEL:-liuhaotian/llava-v1.5-7b}" \
    --version v1 \
    --data_path "${DATA:-data/stage1.json}" \
    --image_folder "${IMAGES:-data/images}" \
    ${VISION_TOWER:+--vision_tower "$VISION_TOWER"} \
    --mm_projector_type mlp2x_gelu \
    --mm_vision_select_layer -2 \
    --mm_use_im_start_end False \
    --mm_use_im_patch_token False \
    --image_aspect_ratio pad \
    --region_encoder "$REGION_ENCODER" \
    --region_weights "${REGION_WEIGHTS:-}" \
    --region_jitter 0.02 \
    --output_dir "${OUTPUT:-checkpoints/pvit-stage1}" \
    --num_train_epochs 1 \
    --per_device_train_batch_size 16 \
    --gradient_accumulation_steps 1 \
    --learning_rate 2e-3 \
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

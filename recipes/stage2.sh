#!/usr/bin/env bash
# Stage 2, finetune: trains the language model, mm_projector, region projector, delimiters and box embedding; both vision
# towers stay frozen. PVIT's settings (arXiv 2308.13437): learning rate 2e-5, global batch 64, 3 epochs. On G GPUs keep
# G * per_device_train_batch_size * gradient_accumulation_steps at 64. Both bash and Python, like stage1.sh.
#   deepspeed recipes/stage2.sh [flags]     bash recipes/stage2.sh [flags]
# Flags given here come last and win. MODEL, STAGE1, DATA, IMAGES and OUTPUT set the paths. The region encoder is STAGE1's;
# REGION_ENCODER and REGION_WEIGHTS that name another are refused. STAGE1="" starts without, as where MODEL has regions.
''':'
[ -n "${RANK:-}${ENTRY:-}" ] || exec deepspeed "$0" "$@"
exec ${ENTRY:-python -u -m pvit_ext.train} \
    --stage finetune \
    --deepspeed "$(dirname "$0")/zero3.json" \
    --model_name_or_path "${MODEL:-liuhaotian/llava-v1.5-7b}" \
    --region_modules "${STAGE1-checkpoints/pvit-stage1}" \
    ${REGION_ENCODER:+--region_encoder "$REGION_ENCODER"} \
    ${REGION_WEIGHTS:+--region_weights "$REGION_WEIGHTS"} \
    --region_box_embedding True \
    --version v1 \
    --data_path "${DATA:-data/stage2.json}" \
    --image_folder "${IMAGES:-data/images}" \
    ${VISION_TOWER:+--vision_tower "$VISION_TOWER"} \
    --mm_projector_type mlp2x_gelu \
    --mm_vision_select_layer -2 \
    --mm_use_im_start_end False \
    --mm_use_im_patch_token False \
    --image_aspect_ratio pad \
    --region_jitter 0.02 \
    --output_dir "${OUTPUT:-checkpoints/pvit-stage2}" \
    --num_train_epochs 3 \
    --per_device_train_batch_size 8 \
    --gradient_accumulation_steps 1 \
    --learning_rate 2e-5 \
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

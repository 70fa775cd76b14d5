#!/bin/sh
# The whole path on synthetic steel: data set -> shards -> training -> evaluation -> predictions. `make demo` runs it.
set -eu
out=${OUT:-runs/demo}
bin=${VENV:-.venv}/bin
PATH=$(cd "$bin" && pwd):$PATH
seed=${SEED:-0}
mkdir -p "$out"

gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
[ "$gpus" -le 2 ] || gpus=2  # its steps have two micro-batches, one for each process
case $gpus in
  0) config=launch/accelerate/cpu2.yaml ;;
  1) config=launch/accelerate/gpu1.yaml ;;
  *) config=launch/accelerate/ddp8.yaml ;;
esac
[ "$gpus" -gt 1 ] && processes="--num_processes $gpus" || processes=
started=$(date +%s)
step() { printf '\n== %s  [%s s]\n' "$1" "$(($(date +%s) - started))"; }

step "a data set shaped like Severstal's, rare classes made as frequent as the others"
steel synth "$out/data" --num-train 800 --num-test 100 --seed "$seed" --class-share 0.25,0.25,0.25,0.25

step "shards: training images in 5 folds, test images with their truth"
python -m data_prep --images "$out/data/train_images" --labels "$out/data/train.csv" \
  --out "$out/shards" --folds 5 --resize 64x400 --workers 2
python -m data_prep --images "$out/data/test_images" --labels "$out/data/test_truth.csv" \
  --out "$out/test_shards" --folds 1 --resize 64x400 --workers 2

step "training on $([ "$gpus" = 0 ] && echo two CPU processes || echo "$gpus GPU(s)")"
accelerate launch --config_file "$config" $processes -m train.fit --preset demo \
  --data "$out/shards" --out "$out/train" --seed "$seed"

step "evaluation on the test images, with test-time augmentation"
accelerate launch --config_file "$config" $processes -m train.evaluate --checkpoint "$out/train/model.safetensors" \
  --data "$out/test_shards" --folds all --out "$out/test"

step "predictions for the test images"
steel predict "$out/train/model.safetensors" "$out/data/test_images" --out "$out" \
  --template "$out/data/sample_submission.csv"
cp "$out/train/model.safetensors" "$out/train/curves.png" "$out/"
cp -r "$out/test/." "$out/"

step "done"
for name in model.safetensors report.html metrics.json submission.csv curves.png contact_sheet.png; do ls "$out/$name"; done

#!/usr/bin/env bash
# Everything that needs an accelerator, in parts of at most eight minutes, one result file a part:
#
#     benchmarks/on_gpu.sh [--device cuda] [--out build/on_gpu] [--limit 480] [--tiny] [PART …]
#
# Parts: models steps loss inference compile memory equality training; all of them if none is named. A part that fails or
# runs out of time is told in its file, and the next one starts all the same; the exit status is the number of such
# parts. --tiny takes sizes that a processor manages (with --device cpu), to try the script itself.
set -uo pipefail

device=cuda out=build/on_gpu limit=480 tiny=
parts=()
while [ $# -gt 0 ]; do
    case $1 in
        --device | --out | --limit)
            [ $# -gt 1 ] || { echo "$1 wants a value" >&2; exit 64; }
            declare "${1#--}=$2"
            shift 2
            ;;
        --tiny) tiny=1; shift ;;
        -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
        -*) echo "$1 is no option; see --help" >&2; exit 64 ;;
        *) parts+=("$1"); shift ;;
    esac
done
known="models steps loss inference compile memory equality training"
[ ${#parts[@]} -gt 0 ] || read -ra parts <<<"$known"
for part in "${parts[@]}"; do
    [[ " $known " == *" $part "* ]] || { echo "there is no part $part; the parts: $known" >&2; exit 64; }
done

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 73
cd "$here/.." || exit 73
python=${PYTHON:-python}

# what a part runs, in full and tiny
commands() {
    local b="$python benchmarks"
    case $1${tiny:+ tiny} in
        models) echo "$b/bench_model.py --device $device --rounds 5" "&&" \
            "$b/bench_model.py --device $device --only whole --batch 8 --bf16 --rounds 5" ;;
        "models tiny") echo "$b/bench_model.py --device $device --only whole --heads linear --rounds 1" ;;
        steps) echo "$b/bench_step.py --device $device --rounds 10" ;;
        "steps tiny") echo "$b/bench_step.py --device $device --rounds 1 --size 64 --dtype fp32 --sides transformers ours" ;;
        loss) echo "$b/bench_loss.py --device $device --rounds 10 &&" \
            "$b/bench_loss.py --device $device --rounds 10 --void" ;;
        "loss tiny") echo "$b/bench_loss.py --device $device --rounds 1 --layers 2 --size 64 --targets 2" ;;
        inference) echo "$b/bench_inference.py --device $device --rounds 3" ;;
        "inference tiny") echo "$b/bench_inference.py --device $device --models tiny --images 1" ;;
        memory) echo "$b/bench_step.py --device $device --memory" ;;
        "memory tiny") echo "$b/bench_step.py --device $device --memory --size 64 --dtype fp32 --sides ours" ;;
        *) echo "$b/bench_accelerator.py $1 --device $device ${tiny:+--tiny}" ;;
    esac
}

failed=0
for part in "${parts[@]}"; do
    file=$out/$part.md
    line=$(commands "$part")
    {
        echo "# $part"
        echo
        echo "\`${line//$python/python}\`, $(date -u +%F), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)."
        "$python" benchmarks/bench_accelerator.py machine --device "$device" 2>&1
        echo
    } >"$file"
    started=$SECONDS
    timeout --kill-after=10 "$limit" bash -c "$line" >>"$file" 2>"$out/$part.log"
    status=$?
    if [ $status -eq 0 ]; then
        rm -f "$out/$part.log"
        printf '\nDone in %d s.\n' $((SECONDS - started)) >>"$file"
    else
        failed=$((failed + 1))
        why="failed with status $status"
        [ $status -eq 124 ] || [ $status -eq 137 ] && why="stopped after $limit s"
        printf '\nNot complete: %s. The end of its log:\n\n    %s\n' "$why" \
            "$(tail -n 15 "$out/$part.log" | sed '2,$s/^/    /')" >>"$file"
    fi
    echo "$part: $(tail -n 1 "$file" | cut -c1-100) -> $file"
done
exit $failed

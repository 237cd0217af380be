#!/usr/bin/env bash
# TensorFlow 2.21.0: a list that enters a loop filled from a tensor keeps the shape of that tensor's rows throughout the
# loop, although its element_shape leaves the size open: sizes that are looked at in the loop are wrong, with no error.
#
# The list: tf.TensorArray with element_shape=[None, 4] and infer_shape=False, filled by unstack from [2, 0, 4], so that
# both elements begin without rows. The loop of three steps looks at the first element's rows, then puts five there.
# Expected: 0 + 5 + 5 = 10 rows are seen, as where no graph is made.
# Seen: in tf.function the element read in the loop has the static shape (0, 4), tf.shape of it is the constant 0, and
# 0 rows are seen. Filled by write, element by element, the same list has the shape (None, 4), and 10 are seen.
#
# Output: unstack, without a graph: 10 rows
#         unstack, static shape (0, 4): 0 rows
#         write, static shape (None, 4): 10 rows
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet tensorflow==2.21.0 keras==3.15.1
cat >"$folder/run.py" <<'PYTHON'
import tensorflow as tf

shapes = []


def rows_seen(rows, is_unstacked):
    lists = tf.TensorArray(tf.float32, 2, element_shape=[None, 4], infer_shape=False)
    empty = tf.zeros([2, 0, 4])
    lists = lists.unstack(empty) if is_unstacked else lists.write(0, empty[0]).write(1, empty[1])

    def step(number, lists, seen):
        element = lists.read(0)
        shapes.append(element.shape)
        return number + 1, lists.write(0, rows), seen + tf.shape(element)[0]

    scalar = tf.TensorShape([])
    _, _, seen = tf.while_loop(
        lambda number, *_: number < 3, step, (0, lists, 0), shape_invariants=(scalar, None, scalar)
    )
    return seen


rows = tf.ones([5, 4])
print(f"unstack, without a graph: {rows_seen(rows, True)} rows")
for is_unstacked in (True, False):
    signature = [tf.TensorSpec([None, 4], tf.float32)]
    compiled = tf.function(
        lambda rows: rows_seen(rows, is_unstacked), input_signature=signature, autograph=False
    )
    seen = compiled(rows)
    print(f"{'unstack' if is_unstacked else 'write'}, static shape {tuple(shapes[-1])}: {seen} rows")
PYTHON
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=""
"$folder/env/bin/python" "$folder/run.py" >"$folder/output" 2>"$folder/stderr" || { cat "$folder/stderr"; exit 1; }
cat "$folder/output"
diff "$folder/output" - <<'EXPECTED'
unstack, without a graph: 10 rows
unstack, static shape (0, 4): 0 rows
write, static shape (None, 4): 10 rows
EXPECTED

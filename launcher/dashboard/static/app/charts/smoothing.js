// The exponential moving average of a curve, corrected for the bias of its start.

/**
 * Each value is the weighted mean of those before it; a point that lies one mean distance back weighs `weight` times as
 * much. Uneven distances count as what they are, so that thinned curves look as the whole ones. null stays null.
 */
export function smoothed(x, y, weight) {
  if (weight <= 0 || x.length < 3) return y;
  const usual = (x[x.length - 1] - x[0]) / (x.length - 1);
  let [sum, total, before] = [0, 0, null];
  return y.map((value, index) => {
    if (value === null) return null;
    const kept = before === null ? 0 : weight ** ((x[index] - before) / usual);
    before = x[index];
    sum = kept * sum + (1 - weight) * value;
    total = kept * total + (1 - weight);
    return sum / total;
  });
}

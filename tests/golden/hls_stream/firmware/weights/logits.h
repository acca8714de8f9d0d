// The constants of logits, as plain integers.
#ifndef LOGITS_CONSTANTS_H_
#define LOGITS_CONSTANTS_H_

// logits, [steps][3 outputs x 2 inputs]: -2..4 * 2^0; a word of 6 weights for each step
static const STORED(ap_int<4>, signed char) logits_weights[1][6] = {
    {1, 4, -2, 0, 3, -1}};

#endif

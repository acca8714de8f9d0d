// The type of every tensor: real = n * 2^exponent.
#ifndef TINY_TYPES_H_
#define TINY_TYPES_H_

#include "ap_fixed.h"

typedef ap_fixed<8,4> x_t; // input [3]: -128..127 * 2^-4
typedef ap_fixed<12,5> hidden_matmul_t; // linear [4]: -1784..1786 * 2^-7; the hull of its elements
typedef ap_fixed<4,1> hidden_weights_t; // weights: -8..7 * 2^-3
typedef ap_fixed<5,0> hidden_bias_t; // constant [4]: -3..9 * 2^-5; the hull of its elements
typedef ap_fixed<12,5> hidden_sum_t; // add [4]: -1784..1786 * 2^-7; the hull of its elements
typedef ap_ufixed<6,4> relu_t; // quantize [4]: 0..56 * 2^-2; the hull of its elements
typedef ap_fixed<10,7> logits_matmul_t; // linear [2]: -144..482 * 2^-3; the hull of its elements
typedef ap_fixed<5,4> logits_weights_t; // weights: -4..10 * 2^-1
typedef ap_fixed<5,6> narrow_t; // quantize [2]: -4..12 * 2^1; the hull of its elements
typedef ap_ufixed<7,4> y_t; // lookup [2]: 0..72 * 2^-3; the hull of its elements

#endif

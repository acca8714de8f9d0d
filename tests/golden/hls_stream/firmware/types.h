// The type of every tensor: real = n * 2^exponent.
#ifndef IMAGE_TYPES_H_
#define IMAGE_TYPES_H_

#include "ap_fixed.h"

typedef ap_fixed<4,2> x_t; // input [4, 5, 2]: -8..7 * 2^-2
typedef ap_fixed<4,2> window_out_t; // window [4, 5, 9, 2]: -8..7 * 2^-2; the hull of its elements
typedef ap_fixed<9,5> conv_matmul_t; // linear [4, 5, 2]: -239..241 * 2^-4; the hull of its elements
typedef ap_fixed<3,1> conv_weights_t; // weights: -3..3 * 2^-2
typedef ap_fixed<10,6> residual_t; // add [4, 5, 2]: -271..269 * 2^-4; the hull of its elements
typedef ap_ufixed<4,3> relu_t; // quantize [4, 5, 2]: 0..15 * 2^-1
typedef ap_ufixed<4,3> largest_out_t; // reduce_max [1, 2]: 0..15 * 2^-1
typedef ap_fixed<8,7> y_t; // linear [3]: -30..75 * 2^-1; the hull of its elements
typedef ap_fixed<4,4> logits_weights_t; // weights: -2..4 * 2^0

#endif

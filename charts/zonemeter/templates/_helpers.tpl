{{/*
What several templates have in common. Names are fixed, whatever the release is called: the collector is once on a node,
so zonemeter is once in a cluster.
*/}}

{{/* Labels of an object; those of pods have the first line only, so that a new chart version alone restarts none. */}}
{{- define "zonemeter.labels" -}}
app.kubernetes.io/part-of: zonemeter
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* An image: (list . "zonemeter"), (list . "history") or (list . "collector"). A digest counts, whatever the tag says. */}}
{{- define "zonemeter.image" -}}
{{- $root := index . 0 }}{{ $image := index $root.Values.images (index . 1) -}}
{{- with $root.Values.images.registry }}{{ . }}/{{ end }}{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "zonemeter.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "zonemeter.bootstrap" -}}
{{- if .Values.trial.enabled }}zonemeter-kafka.{{ .Release.Namespace }}.svc:9092
{{- else }}{{ .Values.kafka.bootstrap }}{{ end }}
{{- end }}

{{/* What the ConfigMap zonemeter-settings holds, in both namespaces. */}}
{{- define "zonemeter.settings" -}}
{{- include "zonemeter.ownSettings" . }}
{{- $every := (fromYaml (include "zonemeter.own" .)).every }}
{{- range $name, $value := .Values.settings }}
{{- if has (lower $name | trimPrefix "zonemeter_") $every }}{{ fail (printf "settings.%s: the chart sets it itself" $name) }}{{ end }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "zonemeter.ownSettings" -}}
ZONEMETER_KAFKA_BOOTSTRAP: {{ include "zonemeter.bootstrap" . | quote }}
ZONEMETER_CLUSTER: {{ .Values.cluster | quote }}
ZONEMETER_PARTITIONS: {{ .Values.kafka.partitions | quote }}
{{- with .Values.kafka }}
{{- if ne .securityProtocol "PLAINTEXT" }}
ZONEMETER_KAFKA_SECURITY_PROTOCOL: {{ .securityProtocol }}
{{- end }}
{{- if and (hasSuffix "SSL" .securityProtocol) (not .publicCertificates) (ne (include "zonemeter.isMskIam" $) "true") }}
ZONEMETER_KAFKA_SSL_CA_FILE: /etc/zonemeter-kafka/ca.crt
{{- end }}
{{- if eq .securityProtocol "SSL" }}
ZONEMETER_KAFKA_SSL_CERT_FILE: /etc/zonemeter-kafka/tls.crt
ZONEMETER_KAFKA_SSL_KEY_FILE: /etc/zonemeter-kafka/tls.key
{{- else if hasPrefix "SASL" .securityProtocol }}
ZONEMETER_KAFKA_SASL_MECHANISM: {{ .sasl.mechanism }}
{{- if eq (include "zonemeter.isMskIam" $) "true" }}
ZONEMETER_KAFKA_SASL_MSK_REGION: {{ .sasl.mskRegion | quote }}
{{- else if eq .sasl.mechanism "OAUTHBEARER" }}
ZONEMETER_KAFKA_SASL_TOKEN_FILE: /etc/zonemeter-kafka/token
{{- else }}
ZONEMETER_KAFKA_SASL_USERNAME: {{ .sasl.username | quote }}
ZONEMETER_KAFKA_SASL_PASSWORD_FILE: /etc/zonemeter-kafka/password
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A pod's annotations: (list . "enricher"), and the values of the files that it alone reads. The checksum replaces a pod
whose settings or files have changed. */}}
{{- define "zonemeter.podAnnotations" -}}
{{- $root := index . 0 -}}
checksum/settings: {{ list (include "zonemeter.settings" $root) (slice . 2) | toJson | sha256sum }}
{{- with (index $root.Values (index . 1)).podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Where a pod may run: (list . "enricher"). */}}
{{- define "zonemeter.scheduling" -}}
{{- include "zonemeter.nodes" . }}
{{- with (index (index . 0).Values (index . 1)).affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The same without the affinity: the upkeep of the archive has its own, to the flow log's pod. */}}
{{- define "zonemeter.nodes" -}}
{{- with index (index . 0).Values (index . 1) }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* The settings that the chart sets itself or has values for, as flags or as variables. A test holds these lists against
what the templates render. */}}
{{- define "zonemeter.own" -}}
every: [cluster, kafka_bootstrap, kafka_sasl_mechanism, kafka_sasl_msk_region, kafka_sasl_password_file, kafka_sasl_token_file,
  kafka_sasl_username, kafka_security_protocol, kafka_ssl_ca_file, kafka_ssl_cert_file, kafka_ssl_key_file, listen, partitions,
  program, run_for]
collector: [hook, host_ip, load, map_memory, node, pin_dir, pod, spool_dir, spool_size]
enricher: [cidr_map, kube, kube_endpoint_slices, namespace_labels, pipeline_only]
metrics: [kubezonnet_metric, ordinal, pipeline_only, prices, replica_ordinal, replicas, state_dir]
flowlog: [cut_seconds, group_instance_id, output, pipeline_only, pod]
audit: [pipeline_only]
{{- end }}

{{/* Whether one is such: (list "enricher" "listen"). */}}
{{- define "zonemeter.isOwn" -}}
{{- $own := fromYaml (include "zonemeter.own" .) }}
{{- if has (index . 1) (concat $own.every (index $own (index . 0))) }}true{{ end }}
{{- end }}

{{/* Further arguments and variables of a service, as values have them: (list . "enricher"). */}}
{{- define "zonemeter.extraArgs" -}}
{{- $service := index . 1 }}
{{- range (index (index . 0).Values $service).extraArgs }}
{{- $flag := splitList "=" . | first }}
{{- if include "zonemeter.isOwn" (list $service (trimPrefix "--" $flag | trimPrefix "no-" | replace "-" "_")) }}
{{- fail (printf "%s.extraArgs: %s: the chart sets it itself" $service $flag) }}
{{- end }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{/* A text such as 64MiB or 1.5 gb as a number of bytes, as the programs read it. */}}
{{- define "zonemeter.bytes" -}}
{{- $unit := regexFind "[A-Za-z]*$" . | lower }}
{{- $bytes := regexFind "^[0-9.]+" . | float64 }}
{{- $power := get (dict "k" 1 "m" 2 "g" 3 "t" 4 "p" 5) (trunc 1 $unit) }}
{{- range until (int $power) }}{{ $bytes = mulf $bytes (ternary 1024 1000 (contains "i" $unit)) }}{{ end }}
{{- printf "%.0f" (floor $bytes) }}
{{- end }}

{{/* What says how the collector counts: its own and its init container's, which must be the same. */}}
{{- define "zonemeter.counting" -}}
{{- with .Values.collector }}
{{- $bytes := include "zonemeter.bytes" .mapMemory | float64 }}
{{- if or (lt $bytes 4096.0) (gt $bytes 8589934592.0) }}
{{- fail (printf "collector.mapMemory: %s: expected 4096 bytes to 8GiB" .mapMemory) }}
{{- end }}
{{- if ne .hook "auto" }}
- {name: ZONEMETER_HOOK, value: {{ .hook | quote }}}
{{- end }}
{{- if ne .mapMemory "64MiB" }}
- {name: ZONEMETER_MAP_MEMORY, value: {{ .mapMemory | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Not those that the manifests have: the API server merges variables by name, and of two would keep none or the wrong one. */}}
{{- define "zonemeter.extraEnv" -}}
{{- $service := index . 1 }}
{{- range $name, $value := (index (index . 0).Values $service).env }}
{{- if include "zonemeter.isOwn" (list $service (lower $name | trimPrefix "zonemeter_")) }}{{ fail (printf "%s.env.%s: the chart sets it itself" $service $name) }}{{ end }}
- {name: {{ $name | quote }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* Commands in a pod say what to run next as it is run here: (list . "deploy/zonemeter-enricher"). */}}
{{- define "zonemeter.programEnv" -}}
- {name: ZONEMETER_PROGRAM, value: kubectl -n {{ (index . 0).Release.Namespace }} exec {{ index . 1 }} -- zonemeter}
- {name: ZONEMETER_PIPELINE_ONLY, value: "true"}
- {name: ZONEMETER_RUN_FOR, value: 1h} # `top`, which goes on when its `kubectl exec` has ended
{{- end }}

{{- define "zonemeter.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "zonemeter.securityContext" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "zonemeter.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  initialDelaySeconds: 10
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{/* Whether Kafka is MSK with IAM: its certificates are public, and there is no token to be read. */}}
{{- define "zonemeter.isMskIam" -}}
{{- with .Values.kafka -}}
{{- and (hasPrefix "SASL" .securityProtocol) (eq .sasl.mechanism "OAUTHBEARER") (ne .sasl.mskRegion "") -}}
{{- end -}}
{{- end }}

{{/* What Kafka is to be shown, as files: the name of their volume; empty: none are needed. */}}
{{- define "zonemeter.kafkaFiles" -}}
{{- with .Values.kafka -}}
{{- if eq .securityProtocol "SSL" }}kafka-tls
{{- else if hasPrefix "SASL" .securityProtocol }}
{{- if ne .sasl.mechanism "OAUTHBEARER" }}
{{- $_ := required "kafka.sasl.username: a user name is needed with kafka.sasl.mechanism PLAIN or SCRAM-*" .sasl.username }}
{{- $_ := required "kafka.sasl.existingSecret: the name of a Secret is needed with kafka.sasl.mechanism PLAIN or SCRAM-*" .sasl.existingSecret }}
{{- "" }}kafka-password
{{- else if ne (include "zonemeter.isMskIam" $) "true" }}kafka-token{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Its mount, and the volume for one service: (list . "enricher"). */}}
{{- define "zonemeter.kafkaMount" -}}
{{- with include "zonemeter.kafkaFiles" . }}
- {name: {{ . }}, mountPath: /etc/zonemeter-kafka, readOnly: true}
{{- end }}
{{- end }}

{{- define "zonemeter.kafkaVolume" -}}
{{- $root := index . 0 }}{{ $service := index . 1 }}{{ $files := include "zonemeter.kafkaFiles" $root }}
{{- with $root.Values.kafka }}
{{- if eq $files "kafka-tls" }}
- name: kafka-tls
  secret:
    secretName: {{ .tls.existingSecret | default (printf "zonemeter-%s-kafka-tls" $service) | quote }}
    defaultMode: 0440
{{- else if eq $files "kafka-password" }}
- name: kafka-password
  secret:
    secretName: {{ .sasl.existingSecret | quote }}
    defaultMode: 0440
{{- else if eq $files "kafka-token" }}
- name: kafka-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {audience: {{ .sasl.audience | quote }}, expirationSeconds: 3600, path: token}
      {{- if and (eq .securityProtocol "SASL_SSL") (not .publicCertificates) }}
      - configMap: {name: {{ .sasl.caConfigMap | quote }}, items: [{key: ca.crt, path: ca.crt}]}
      {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* What a pod that talks to Kafka may reach. A rule with an empty list is for everyone. */}}
{{- define "zonemeter.kafkaEgress" -}}
{{- with .Values.networkPolicy.kafka -}}
{{- if or .to $.Values.trial.enabled }}
- to:
    {{- if $.Values.trial.enabled }}
    - podSelector: {matchLabels: {app.kubernetes.io/name: zonemeter-kafka}}
    {{- else }}
    {{- toYaml .to | nindent 4 }}
    {{- end }}
  ports: {{ toYaml .ports | nindent 4 }}
{{- end }}
{{- with .extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{/* The names of the services that are on, as a list of label values. */}}
{{- define "zonemeter.scraped" -}}
[zonemeter-enricher
{{- range tuple "metrics" "flowlog" "audit" }}{{ if (index $.Values .).enabled }}, zonemeter-{{ . }}{{ end }}{{ end -}}
]
{{- end }}

{{/* Where the flow log is, if in an object store: whether one is there. */}}
{{- define "zonemeter.objectStore" -}}
{{- if and .Values.flowlog.enabled (contains "://" .Values.flowlog.output) }}true{{ end }}
{{- end }}

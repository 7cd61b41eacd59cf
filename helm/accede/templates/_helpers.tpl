{{- define "accede.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* 50 characters, so that what is added stays within the 63 of a label. */}}
{{- define "accede.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "accede.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "accede.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of a part; call with (list $ "router"). It must never change within a release. */}}
{{- define "accede.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ include "accede.name" $ }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "accede.labels" -}}
{{- $ := index . 0 -}}
{{ include "accede.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: accede
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Call with (list image tag-for-default digest). */}}
{{- define "accede.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default (index . 1) }}
{{- end -}}
{{- end -}}

{{- define "accede.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ include "accede.fullname" . }}{{ else }}default{{ end -}}
{{- end -}}

{{- define "accede.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "accede.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "accede.servicesConfigMap" -}}
{{ .Values.servicesConfigMap | default (printf "%s-services" (include "accede.fullname" .)) }}
{{- end -}}

{{- define "accede.valkeySecret" -}}
{{ .Values.store.bundled.passwordSecret | default (printf "%s-valkey" (include "accede.fullname" .)) }}
{{- end -}}

{{- define "accede.tokensSecret" -}}
{{ .Values.controller.tokens.secretName | default (printf "%s-tokens" (include "accede.fullname" .)) }}
{{- end -}}

{{/* What has to fit together, in words; the schema checks each value. */}}
{{- define "accede.check" -}}
{{- $stores := list -}}
{{- if .Values.store.url }}{{ $stores = append $stores "store.url" }}{{ end -}}
{{- if .Values.store.urlSecret.name }}{{ $stores = append $stores "store.urlSecret.name" }}{{ end -}}
{{- if .Values.store.bundled.enabled }}{{ $stores = append $stores "store.bundled.enabled" }}{{ end -}}
{{- if ne (len $stores) 1 -}}
{{- fail (printf "store: set exactly one of store.url, store.urlSecret.name and store.bundled.enabled; set now: %s" (join ", " $stores | default "none")) -}}
{{- end -}}
{{- if and .Values.store.passwordSecret.name .Values.store.bundled.enabled -}}
{{- fail "store.passwordSecret.name: is for a store of your own; of the bundled one it is store.bundled.passwordSecret" -}}
{{- end -}}
{{- if regexMatch "://[^/?]*:[^/?]*@|[?&]sentinel_password=" .Values.store.url -}}
{{- fail "store.url: has a password in it, which everybody who may read a Deployment could read; use store.urlSecret, store.passwordSecret or store.sentinelPasswordSecret" -}}
{{- end -}}
{{- if and .Values.services .Values.servicesConfigMap -}}
{{- fail "services, servicesConfigMap: set one of them, not both" -}}
{{- end -}}
{{- range $name, $_ := .Values.services -}}
{{- if not (regexMatch "^[A-Za-z0-9][-._A-Za-z0-9]*\\.ya?ml$" $name) -}}
{{- fail (printf "services: %q is no file name; allowed: letters, digits, '-', '_' and '.', with .yaml or .yml at the end" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.controller.tokens.secretName .Values.controller.tokens.generate -}}
{{- fail "controller.tokens: set secretName or generate, not both" -}}
{{- else if not (or .Values.controller.tokens.secretName .Values.controller.tokens.generate) -}}
{{- fail "controller.tokens: name a Secret with secretName (`accede token` makes its entries), or set generate: true for a trial" -}}
{{- end -}}
{{- if and .Values.router.tls.clientCaKey (not .Values.router.tls.secretName) -}}
{{- fail "router.tls.clientCaKey: needs router.tls.secretName" -}}
{{- end -}}
{{- if and .Values.router.autoscaling.enabled (gt (int .Values.router.autoscaling.minReplicas) (int .Values.router.autoscaling.maxReplicas)) -}}
{{- fail "router.autoscaling: minReplicas is above maxReplicas" -}}
{{- end -}}
{{- end -}}

{{/* How both parts reach the store. */}}
{{- define "accede.storeEnv" -}}
- name: ACCEDE_STORE
{{- if .Values.store.urlSecret.name }}
  valueFrom:
    secretKeyRef: {name: {{ .Values.store.urlSecret.name }}, key: {{ .Values.store.urlSecret.key }}}
{{- else if .Values.store.bundled.enabled }}
  value: redis://{{ include "accede.fullname" . }}-valkey:6379/0
{{- else }}
  value: {{ .Values.store.url | quote }}
{{- end }}
{{- if .Values.store.bundled.enabled }}
- name: ACCEDE_STORE_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "accede.valkeySecret" . }}, key: password}
{{- else if .Values.store.passwordSecret.name }}
- name: ACCEDE_STORE_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .Values.store.passwordSecret.name }}, key: {{ .Values.store.passwordSecret.key }}}
{{- end }}
{{- with .Values.store.sentinelPasswordSecret }}
{{- if .name }}
- name: ACCEDE_SENTINEL_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where pods may run; call with (list $ "router" .Values.router). */}}
{{- define "accede.placement" -}}
{{- $part := index . 2 -}}
{{- with $part.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
{{- if $part.topologySpreadConstraints }}
{{- toYaml $part.topologySpreadConstraints | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "accede.selector" . | nindent 8 }}
{{- end }}
{{- end -}}
